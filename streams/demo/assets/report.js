(() => {
  "use strict";
  const data = JSON.parse(document.getElementById("data").textContent);
  const tip = document.getElementById("tip");
  const root = document.documentElement;
  const money = new Intl.NumberFormat("en-US", { minimumFractionDigits: 2, maximumFractionDigits: 2 });
  const clock = (zone) => new Intl.DateTimeFormat("en-GB", {
    timeZone: zone, day: "2-digit", month: "short", hour: "2-digit", minute: "2-digit", hour12: false,
  });

  document.getElementById("theme").addEventListener("click", () => {
    const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = dark ? "light" : "dark";
  });

  // The last sample at or before a minute: a mark holds until the next one.
  function at(times, minute) {
    let low = 0, high = times.length - 1;
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (times[middle] <= minute) low = middle; else high = middle - 1;
    }
    return low;
  }

  function element(tag, text, className) {
    const node = document.createElement(tag);
    if (text !== undefined) node.textContent = text;
    if (className) node.className = className;
    return node;
  }

  function rows(pairs) {
    const list = element("dl");
    for (const [name, value] of pairs) list.append(element("dt", name, "t"), element("dd", value));
    return list;
  }

  function describe(story, index, minute) {
    const when = new Date(data.start + minute * 60000);
    const parts = [element("b", clock("UTC").format(when) + " UTC")];
    if (story.zone && story.zone !== "UTC") parts.push(element("div", clock(story.zone).format(when) + " " + story.zone, "t"));
    const equity = story.equity[index];
    if (story.day) {
      parts.push(rows([
        ["equity", money.format(equity)],
        ["daily limit at", money.format(story.day[index])],
        ["room left", money.format(Math.max(0, equity - story.day[index]))],
      ]));
    } else {
      parts.push(rows([["BTC-USD", money.format(equity)]]));
    }
    const near = story.moments.filter((moment) => Math.abs(moment[0] - minute) <= data.near);
    const counts = new Map();
    for (const [, kind, text] of near) {
      const key = kind + "|" + kind.replace("-", " ") + ": " + text;
      counts.set(key, (counts.get(key) || 0) + 1);
    }
    if (counts.size) parts.push(element("hr"));
    for (const [key, count] of [...counts].slice(0, 6)) {
      const [kind, text] = key.split("|", 2);
      parts.push(element("div", text + (count > 1 ? " ×" + count : ""), kind));
    }
    return parts;
  }

  function place(x, y) {
    const width = tip.offsetWidth, height = tip.offsetHeight;
    tip.style.left = Math.max(8, Math.min(innerWidth - width - 8, x + 16 + width > innerWidth ? x - width - 16 : x + 16)) + "px";
    tip.style.top = Math.max(8, Math.min(innerHeight - height - 8, y - height - 12)) + "px";
  }

  for (const plot of document.querySelectorAll(".plot[data-story]")) {
    const story = data.stories[plot.dataset.story];
    if (!story || !story.times.length) continue;
    const cross = element("div", undefined, "cross"), dot = element("div", undefined, "dot");
    cross.hidden = dot.hidden = true;
    plot.append(cross, dot);
    let chosen = null;

    const show = (minute, x, y) => {
      chosen = minute;
      const index = at(story.times, minute);
      const left = (100 * minute) / data.minutes;
      const top = 100 * (1 - (story.equity[index] - story.low) / (story.high - story.low));
      cross.style.left = dot.style.left = left + "%";
      dot.style.top = top + "%";
      tip.replaceChildren(...describe(story, index, minute));
      cross.hidden = dot.hidden = tip.hidden = false;
      place(x, y);
    };
    const hide = () => { cross.hidden = dot.hidden = tip.hidden = true; };
    const follow = (event) => {
      const box = plot.getBoundingClientRect();
      const share = Math.min(1, Math.max(0, (event.clientX - box.left) / box.width));
      show(Math.round((share * data.minutes) / data.step) * data.step, event.clientX, event.clientY);
    };
    plot.addEventListener("pointermove", follow);
    plot.addEventListener("pointerdown", follow);
    plot.addEventListener("pointerleave", hide);
    plot.addEventListener("blur", hide);
    plot.addEventListener("keydown", (event) => {
      const hours = { ArrowLeft: -1, ArrowRight: 1, PageUp: -24, PageDown: 24 }[event.key];
      if (event.key === "Escape") return hide();
      if (!hours) return;
      event.preventDefault();
      const minute = Math.min(data.minutes, Math.max(0, (chosen ?? data.minutes / 2) + hours * 60));
      const box = plot.getBoundingClientRect();
      show(minute, box.left + (box.width * minute) / data.minutes, box.top + 20);
    });
  }
  addEventListener("scroll", () => { tip.hidden = true; }, { passive: true });
})();
