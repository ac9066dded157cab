#!lua name=tidegate_mirror
-- What the mirror writes and what executors ask, each in one atomic step (layout: streams/mirror/README.md).
--
-- Every function is called with one key, PREFIXstatus, from which all others follow. Writers name the generation that
-- they build and the stretch of the topic, [from, to), that a write is made of. The stored position decides:
--   to <= position          it is there already: a repeat, or an older writer. Nothing is written.
--   from <= position < to   written, with the new position.
--   position < from         the model has lost what was there (wiped, or an older copy): the writer starts again.
-- No clock but this server's is ever read here, so that all ages are differences of one clock.

local function prefix_of(keys)
  return string.sub(keys[1], 1, -(#'status' + 1))
end

local function now_ms()
  local t = redis.call('TIME')
  return tonumber(t[1]) * 1000 + math.floor(tonumber(t[2]) / 1000)
end

local function hset(key, flat)
  -- unpack is bounded by Lua's stack: an account may have thousands of open orders.
  for first = 1, #flat, 1000 do
    redis.call('HSET', key, unpack(flat, first, math.min(first + 999, #flat)))
  end
end

local function is_live(prefix)
  return redis.call('HGET', prefix .. 'status', 'phase') == 'live'
end

local function tell(prefix, channel, message)
  redis.call('PUBLISH', prefix .. 'updates:' .. channel, cjson.encode(message))
end

-- The reply that ends a write, or nil where it may be made.
local function refusal(prefix, generation, place, from, to)
  local stored = redis.call('HGET', prefix .. 'status', 'generation')
  if stored ~= generation then
    return {'generation', stored or ''}
  end
  local position = tonumber(redis.call('HGET', prefix .. 'positions', place) or '0')
  if position < tonumber(from) then
    return {'gap', tostring(position)}
  end
  if position >= tonumber(to) then
    return {'repeated', tostring(position)}
  end
  return nil
end

local function advance(prefix, place, to)
  redis.call('HSET', prefix .. 'positions', place, to)
  return {'written', to}
end

-- The account's hash in this generation; what an earlier one left there goes.
local function account_key(prefix, generation, account_id)
  local key = prefix .. 'account:' .. account_id
  if redis.call('HGET', key, 'generation') ~= generation then
    redis.call('DEL', key, prefix .. 'orders:' .. account_id, prefix .. 'state:' .. account_id)
    redis.call('HSET', key, 'generation', generation, 'account_id', account_id)
    redis.call('SADD', prefix .. 'accounts', account_id)
  end
  return key
end

local function set_fields(prefix, key, account_id, fields, is_locked)
  hset(key, fields)
  redis.call('HSET', key, 'updated_ms', string.format('%.0f', now_ms()))
  redis.call(is_locked and 'SADD' or 'SREM', prefix .. 'locked', account_id)
end

-- A new generation, to be built from the topics' beginnings. What stands stays readable until it is overwritten, but
-- the phase says that it is not to be trusted.
local function begin(prefix, source, layout, forget_locks)
  local before = redis.call('HMGET', prefix .. 'status', 'generation', 'source')
  local generation = math.max(now_ms(), tonumber(before[1] or '0') + 1)
  if forget_locks or before[2] and before[2] ~= source then
    redis.call('DEL', prefix .. 'locks', prefix .. 'lock-positions')
  end
  redis.call('DEL', prefix .. 'status', prefix .. 'positions', prefix .. 'ends', prefix .. 'rules')
  redis.call('HSET', prefix .. 'status', 'layout', layout, 'source', source, 'phase', 'building', 'fresh_ms', '0',
    'generation', string.format('%.0f', generation), 'began_ms', string.format('%.0f', now_ms()))
  tell(prefix, 'model', {phase = 'building'})
end

local function opened(prefix)
  local status = redis.call('HMGET', prefix .. 'status', 'generation', 'phase')
  return {'opened', status[1], status[2], redis.call('HGETALL', prefix .. 'positions')}
end

-- args: source, layout
local function open(keys, args)
  local prefix = prefix_of(keys)
  local stored = redis.call('HMGET', keys[1], 'source', 'layout', 'generation')
  if not stored[3] then
    begin(prefix, args[1], args[2])
  elseif stored[1] ~= args[1] then
    return {'foreign', stored[1] or ''}
  elseif tonumber(stored[2]) > tonumber(args[2]) then
    return {'newer', stored[2]}
  elseif stored[2] ~= args[2] then
    begin(prefix, args[1], args[2])
  end
  return opened(prefix)
end

-- args: source, layout, '1' where the topics were made anew: the positions in the stream of locks mean nothing any more
local function rebuild(keys, args)
  local prefix = prefix_of(keys)
  begin(prefix, args[1], args[2], args[3] == '1')
  return opened(prefix)
end

-- args: generation, place, from, to, content (msgpack): accounts {id, trading_state, fields, parts, orders,
-- is_locked}, closed {order_id, until_ms}
local function put_accounts(keys, args)
  local prefix, generation = prefix_of(keys), args[1]
  local refused = refusal(prefix, generation, args[2], args[3], args[4])
  if refused then
    return refused
  end
  local content, live = cmsgpack.unpack(args[5]), is_live(prefix)
  for _, account in ipairs(content.accounts) do
    local id = account.id
    local key = account_key(prefix, generation, id)
    set_fields(prefix, key, id, account.fields, account.is_locked)
    hset(prefix .. 'state:' .. id, account.parts)
    redis.call('HSET', prefix .. 'state:' .. id, 'generation', generation)
    redis.call('DEL', prefix .. 'orders:' .. id)
    hset(prefix .. 'orders:' .. id, account.orders)
    if live then
      tell(prefix, 'accounts', {account_id = id, trading_state = account.trading_state, offset = args[4]})
    end
  end
  for _, closed in ipairs(content.closed) do
    redis.call('SET', prefix .. 'closed:' .. closed.order_id, '1', 'PXAT', closed.until_ms)
  end
  return advance(prefix, args[2], args[4])
end

-- args: generation, policy version, accounts (msgpack): {id, offset, fields, is_locked}
-- Figures that other rules change; skipped where the account's state has moved on since it was read.
local function refresh_accounts(keys, args)
  local prefix, generation = prefix_of(keys), args[1]
  local status = redis.call('HMGET', keys[1], 'generation', 'policy_version')
  if status[1] ~= generation then
    return {'generation', status[1] or ''}
  end
  if tonumber(status[2] or '0') > tonumber(args[2]) then
    return {'repeated', status[2]}
  end
  for _, account in ipairs(cmsgpack.unpack(args[3])) do
    local offset = redis.call('HGET', prefix .. 'state:' .. account.id, 'offset') or ''
    local of = redis.call('HGET', prefix .. 'account:' .. account.id, 'generation')
    -- An account of an earlier generation is left to the changelog; one that has no state is made here.
    if offset == account.offset and (of == generation or offset == '') then
      local key = account_key(prefix, generation, account.id)
      set_fields(prefix, key, account.id, account.fields, account.is_locked)
      if is_live(prefix) then
        tell(prefix, 'accounts', {account_id = account.id, trading_state = account.trading_state})
      end
    end
  end
  return {'written', args[2]}
end

-- args: generation, place, from, to, decisions (msgpack): accounts {id, sequence, fields}, orders {id, value, until_ms}
local function put_decisions(keys, args)
  local prefix, generation = prefix_of(keys), args[1]
  local refused = refusal(prefix, generation, args[2], args[3], args[4])
  if refused then
    return refused
  end
  local content = cmsgpack.unpack(args[5])
  for _, decision in ipairs(content.accounts) do
    local key = account_key(prefix, generation, decision.id)
    -- Approvals and rejections come from two topics: the later of the two stands.
    if decision.sequence > tonumber(redis.call('HGET', key, 'last_decision_sequence') or '-1') then
      hset(key, decision.fields)
      redis.call('HSET', key, 'last_decision_sequence', string.format('%.0f', decision.sequence))
    end
  end
  for _, order in ipairs(content.orders) do
    redis.call('SET', prefix .. 'order:' .. order.id, order.value, 'PXAT', order.until_ms)
  end
  return advance(prefix, args[2], args[4])
end

-- args: generation, place, from, to, length, locks (msgpack): {offset, fields, message}
-- The stream has positions of its own, that outlive a rebuild: each lock is added once as long as the stream lives.
local function put_locks(keys, args)
  local prefix = prefix_of(keys)
  local refused = refusal(prefix, args[1], args[2], args[3], args[4])
  if refused then
    return refused
  end
  local live = is_live(prefix)
  local added = tonumber(redis.call('HGET', prefix .. 'lock-positions', args[2]) or '0')
  for _, lock in ipairs(cmsgpack.unpack(args[6])) do
    if lock.offset >= added then
      redis.call('XADD', prefix .. 'locks', 'MAXLEN', '~', args[5], '*', unpack(lock.fields))
      if live then
        redis.call('PUBLISH', prefix .. 'updates:locks', lock.message)
      end
    end
  end
  if tonumber(args[4]) > added then
    redis.call('HSET', prefix .. 'lock-positions', args[2], args[4])
  end
  return advance(prefix, args[2], args[4])
end

-- args: generation, version, fields (msgpack)
local function put_rules(keys, args)
  local prefix = prefix_of(keys)
  local stored = redis.call('HMGET', keys[1], 'generation', 'policy_version')
  if stored[1] ~= args[1] then
    return {'generation', stored[1] or ''}
  end
  if tonumber(stored[2] or '-1') > tonumber(args[2]) then
    return {'repeated', stored[2]}
  end
  hset(prefix .. 'rules', cmsgpack.unpack(args[3]))
  redis.call('HSET', prefix .. 'rules', 'version', args[2])
  redis.call('HSET', keys[1], 'policy_version', args[2])
  return {'written', args[2]}
end

-- args: generation, account ids: drops those that this generation has not met
local function sweep(keys, args)
  local prefix = prefix_of(keys)
  if redis.call('HGET', keys[1], 'generation') ~= args[1] then
    return {'generation', ''}
  end
  for at = 2, #args do
    local id = args[at]
    if redis.call('HGET', prefix .. 'account:' .. id, 'generation') ~= args[1] then
      redis.call('DEL', prefix .. 'account:' .. id, prefix .. 'orders:' .. id, prefix .. 'state:' .. id)
      redis.call('SREM', prefix .. 'accounts', id)
      redis.call('SREM', prefix .. 'locked', id)
    end
  end
  return {'written', ''}
end

-- args: generation
local function finish(keys, args)
  if redis.call('HGET', keys[1], 'generation') ~= args[1] then
    return {'generation', ''}
  end
  redis.call('HSET', keys[1], 'phase', 'live', 'live_ms', string.format('%.0f', now_ms()))
  tell(prefix_of(keys), 'model', {phase = 'live'})
  return {'written', ''}
end

-- args: generation, writer, fresh_ms or '', behind_records, places (msgpack): {place, position, end}
-- 'fresh_ms': all that was committed by then is here. It counts only while all of the writer's positions are here.
local function heartbeat(keys, args)
  local prefix, now = prefix_of(keys), now_ms()
  local stored = redis.call('HMGET', keys[1], 'generation', 'fresh_ms')
  if stored[1] ~= args[1] then
    return {'generation', stored[1] or ''}
  end
  local ends = {}
  for _, one in ipairs(cmsgpack.unpack(args[5])) do
    if tonumber(redis.call('HGET', prefix .. 'positions', one[1]) or '0') < one[2] then
      return {'gap', one[1]}
    end
    ends[#ends + 1] = one[1]
    ends[#ends + 1] = string.format('%.0f', one[3])
  end
  if #ends > 0 then
    hset(prefix .. 'ends', ends)
  end
  local fresh = tonumber(stored[2])
  if fresh > now then
    fresh = 0
  end
  if args[3] ~= '' then
    fresh = math.max(fresh, math.min(now, tonumber(args[3])))
  end
  redis.call('HSET', keys[1], 'heartbeat_ms', string.format('%.0f', now), 'fresh_ms', string.format('%.0f', fresh),
    'behind_records', args[4], 'behind_ms', string.format('%.0f', now - fresh), 'writer', args[2])
  return {'written', string.format('%.0f', now)}
end

local SEVERITY = {ACTIVE = 0, REDUCING = 1, HALTED = 2}

local function contains(list, name)
  for _, one in ipairs(list) do
    if one == name then
      return true
    end
  end
  return false
end

local function is_list(value)
  return type(value) == 'table'
end

-- Whether the strategy is refused by the lists of one scope: the code, or nil.
local function refused_by_lists(lists, strategy)
  if not lists then
    return nil
  end
  if contains(lists.blacklist, strategy) then
    return 'STRATEGY_BLACKLISTED'
  end
  if #lists.whitelist > 0 and not contains(lists.whitelist, strategy) then
    return 'STRATEGY_NOT_WHITELISTED'
  end
  return nil
end

-- args: account id, order id, max_age_ms
-- reply: code ('' where the order may go out), detail, age_ms, valid_until_ms, policy version
local function last_look(keys, args)
  local prefix, now = prefix_of(keys), now_ms()
  local account_id, order_id, max_age_ms = args[1], args[2], tonumber(args[3])
  local age_ms, valid_until, version = '', '', ''

  local function reply(code, detail)
    return {code, detail or '', age_ms, valid_until, version}
  end

  local status = redis.call('HMGET', keys[1], 'generation', 'phase', 'fresh_ms', 'policy_version')
  if not (status[1] and status[2] and status[3]) then
    return reply('MIRROR_MISSING')
  end
  local age = now - tonumber(status[3])
  age_ms, version = string.format('%.0f', age), status[4] or ''
  if status[2] ~= 'live' then
    return reply('MIRROR_BUILDING')
  end
  if age < 0 or age > max_age_ms then
    return reply('MIRROR_STALE', age_ms)
  end
  local rules = redis.call('HMGET', prefix .. 'rules', 'version', 'states', 'venues', 'lists', 'rollout')
  if not (status[4] and rules[1] == status[4] and rules[2] and rules[3] and rules[4] and rules[5]) then
    return reply('MIRROR_INCOMPLETE', 'rules')
  end

  local account = redis.call('HMGET', prefix .. 'account:' .. account_id, 'generation', 'configured', 'own_state',
    'profile', 'entry_refusals', 'stale_after_ms')
  if account[1] ~= status[1] or account[2] ~= '1' then
    return reply('UNKNOWN_ACCOUNT')
  end
  if not (account[3] and account[4] and account[5] and account[6]) then
    return reply('MIRROR_INCOMPLETE', 'account')
  end
  local approval = redis.call('GET', prefix .. 'order:' .. order_id)
  local working = redis.call('HGET', prefix .. 'orders:' .. account_id, order_id)
  if not working then
    if redis.call('EXISTS', prefix .. 'closed:' .. order_id) == 1 then
      return reply('ORDER_CLOSED')
    end
    return reply('ORDER_UNKNOWN')
  end
  local order = cjson.decode(working)
  valid_until = string.format('%.0f', order.valid_until_ms)
  if now > order.valid_until_ms then
    return reply('ORDER_EXPIRED', valid_until)
  end
  if not approval then
    return reply('ORDER_UNKNOWN')
  end
  local approved = cjson.decode(approval)
  if approved.account_id ~= account_id then
    return reply('ORDER_UNKNOWN')
  end
  if order.left == '0' then
    return reply('ORDER_FILLED')
  end

  -- What follows has the codes of the contract, in its order.
  local states, state, scope = cjson.decode(rules[2]), account[3], 'account'
  for _, one in ipairs({'global', 'venue/' .. order.venue, 'strategy/' .. approved.strategy_id}) do
    local other = states['state/' .. one] or 'ACTIVE'
    if SEVERITY[other] > SEVERITY[state] then
      state, scope = other, one
    end
  end
  if state == 'HALTED' then
    return reply('TRADING_HALTED', scope)
  end
  local is_up = cjson.decode(rules[3])[order.venue]
  if order.reduces then
    if not order.covered then
      return reply('REDUCE_ONLY_WOULD_INCREASE_POSITION')
    end
    if is_up == false then
      return reply('VENUE_UNAVAILABLE', order.venue)
    end
    return reply('')
  end
  if state == 'REDUCING' then
    return reply('TRADING_STATE_REDUCING', scope)
  end
  local rollout = cjson.decode(rules[5])
  if is_list(rollout) then
    for _, one in ipairs({{rollout.accounts, account_id}, {rollout.profiles, account[4]}, {rollout.venues, order.venue}}) do
      if is_list(one[1]) and not contains(one[1], one[2]) then
        return reply('ROLLOUT_PHASE', one[2])
      end
    end
  end
  local refusals = cjson.decode(account[5])
  for _, code in ipairs(refusals) do
    if string.sub(code, 1, #'ACCOUNT_LOCKED_') == 'ACCOUNT_LOCKED_' then
      return reply(code)
    end
  end
  local lists = cjson.decode(rules[4])
  local listed = {refused_by_lists(lists[''], approved.strategy_id) or false,
    refused_by_lists(lists[account[4]], approved.strategy_id) or false}
  for _, code in ipairs({'STRATEGY_BLACKLISTED', 'STRATEGY_NOT_WHITELISTED'}) do
    if contains(listed, code) then
      return reply(code, approved.strategy_id)
    end
  end
  if is_up == false then
    return reply('VENUE_UNAVAILABLE', order.venue)
  end
  if contains(refusals, 'RISK_DATA_MISSING') then
    return reply('RISK_DATA_MISSING')
  end
  if account[6] ~= '' and now > tonumber(account[6]) then
    return reply('RISK_DATA_STALE', account[6])
  end
  if #refusals > 0 then
    return reply(refusals[1])
  end
  return reply('')
end

redis.register_function('tidegate_open', open)
redis.register_function('tidegate_rebuild', rebuild)
redis.register_function('tidegate_put_accounts', put_accounts)
redis.register_function('tidegate_refresh_accounts', refresh_accounts)
redis.register_function('tidegate_put_decisions', put_decisions)
redis.register_function('tidegate_put_locks', put_locks)
redis.register_function('tidegate_put_rules', put_rules)
redis.register_function('tidegate_sweep', sweep)
redis.register_function('tidegate_finish', finish)
redis.register_function('tidegate_heartbeat', heartbeat)
redis.register_function{function_name = 'tidegate_last_look', callback = last_look, flags = {'no-writes'}}
