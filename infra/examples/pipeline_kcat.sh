#!/usr/bin/env bash
# A pipeline in a shell: kcat 1.7 or later, and jq.
#
#   infra/examples/pipeline_kcat.sh send < signals.jsonl    one signal a line; status 0 when the brokers have them all
#   infra/examples/pipeline_kcat.sh decisions               every decision from now on, one a line, until Ctrl-C
#
# The environment is that of connection.py. What matters is `partitioner`: without it kcat would send an account's records
# to other partitions than everyone else's.
set -euo pipefail

: "${TIDEGATE_BROKER:?set TIDEGATE_BROKER=kafka://host:port}"
prefix=${TIDEGATE_TOPIC_PREFIX:-}

# A file and not arguments: whoever lists the processes would read the password.
settings() {
    printf 'bootstrap.servers=%s\n' "${TIDEGATE_BROKER#kafka://}"
    printf 'security.protocol=%s\n' "${TIDEGATE_KAFKA_SECURITY_PROTOCOL:-PLAINTEXT}"
    if [[ -n ${TIDEGATE_KAFKA_SSL_CAFILE:-} ]]; then
        printf 'ssl.ca.location=%s\n' "$TIDEGATE_KAFKA_SSL_CAFILE"
    fi
    if [[ -n ${TIDEGATE_KAFKA_SSL_CERTFILE:-} ]]; then
        printf 'ssl.certificate.location=%s\n' "$TIDEGATE_KAFKA_SSL_CERTFILE"
        printf 'ssl.key.location=%s\n' "$TIDEGATE_KAFKA_SSL_KEYFILE"
    fi
    # SCRAM needs librdkafka 2.6.1 or later (`kcat -V`): brokers from 4.0 on refuse older ones.
    if [[ ${TIDEGATE_KAFKA_SECURITY_PROTOCOL:-} == SASL_* ]]; then
        printf 'sasl.mechanism=%s\n' "${TIDEGATE_KAFKA_SASL_MECHANISM:-PLAIN}"
        printf 'sasl.username=%s\n' "$TIDEGATE_KAFKA_SASL_USERNAME"
        printf 'sasl.password=%s\n' "$(<"$TIDEGATE_KAFKA_SASL_PASSWORD_FILE")"
    fi
}

# Passes on what kcat says, as it says it. Status 1 if its producer was refused as a whole: kcat may end with 0 then, and
# with nothing sent.
told() {
    local refused=0 line
    while IFS= read -r line; do
        printf '%s\n' "$line" >&2
        [[ $line != *'FATAL CLIENT ERROR'* ]] || refused=1
    done
    return "$refused"
}

case ${1:-} in
send)
    # Key and value on one line, a tab between them; a signal without account has an empty key, which -Z makes none.
    jq --raw-output --compact-output '"\(.account_id // "")\t\(tojson)"' |
        kcat -F <(settings) -P -t "${prefix}signals" -K '\t' -Z \
            -X partitioner=murmur2_random -X enable.idempotence=true -X message.timeout.ms=10000 2>&1 | told
    ;;
decisions)
    # Read committed: what an aborted transaction of the gate has written was never decided. A group of its own that keeps
    # no position; exec, so that whoever ends this script ends kcat.
    exec kcat -F <(settings) -G "$prefix${TIDEGATE_APP_ID:-tidegate}-pipeline-kcat-$$" -q -u -f '%s\n' \
        -X isolation.level=read_committed -X auto.offset.reset=latest -X enable.auto.commit=false \
        "${prefix}approved-orders" "${prefix}rejected-signals" \
        > >(jq --raw-output --unbuffered '"\(.signal_id) \(.account_id): \(.order_id // "rejected: " + .code)"')
    ;;
*)
    sed -n '2,8s/^# \{0,1\}//p' "$0" >&2
    exit 64
    ;;
esac
