"use strict";
(function () {
  const root = document.documentElement;

  // Figures name CSS variables as colours; filling them in here lets a figure follow its page.
  function coloured(value) {
    if (typeof value === "string") {
      const name = /^var\((--[a-z-]+)\)$/.exec(value);
      return name ? getComputedStyle(root).getPropertyValue(name[1]).trim() : value;
    }
    if (Array.isArray(value)) return value.map(coloured);
    if (value === null || typeof value !== "object") return value;
    return Object.fromEntries(Object.entries(value).map(([k, v]) => [k, coloured(v)]));
  }

  function draw(width) {
    for (const place of document.querySelectorAll(".plot")) {
      const spec = coloured(JSON.parse(document.getElementById(place.dataset.spec).textContent));
      if (width) spec.layout.width = width;
      Plotly.react(place, spec.data, spec.layout, { displayModeBar: false, responsive: !width });
    }
  }

  draw();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => draw());
  addEventListener("beforeprint", () => { root.dataset.print = ""; draw(640); });
  addEventListener("afterprint", () => { delete root.dataset.print; draw(); });

  const data = document.getElementById("flip-data");
  if (!data) return;

  const PAGE = 50, LONG = 600;
  const flips = JSON.parse(data.textContent);
  const haystack = flips.map((f) =>
    [f.id, f.prompt, f.baseline, f.steered, f.gold].join("\n").toLowerCase());
  const list = document.getElementById("flip-list");
  const more = document.getElementById("flip-more");
  const count = document.getElementById("flip-count");
  const search = document.getElementById("flip-search");
  let found = [], shown = 0;

  function element(tag, className, text) {
    const node = document.createElement(tag);
    if (className) node.className = className;
    if (text !== undefined) node.textContent = text;
    return node;
  }

  // Long text shows its beginning and unfolds on demand, so that 100 kB cost nothing unasked.
  function said(text) {
    const box = element("div"), body = element("p", "said", text || "(empty)");
    body.dir = "auto";
    box.append(body);
    if (text.length > LONG) {
      const button = element("button", "fold");
      button.type = "button";
      let open = true;
      button.addEventListener("click", () => {
        open = !open;
        body.textContent = open ? text : text.slice(0, LONG).replace(/[\ud800-\udbff]$/, "") + " …";
        button.textContent = open ? "Show less" : `Show all ${text.length.toLocaleString("en")} characters`;
        button.setAttribute("aria-expanded", String(open));
      });
      button.click();
      box.append(button);
    }
    return box;
  }

  function card(flip) {
    const node = element("article", "flip " + flip.kind), head = element("h3", "", flip.kind);
    head.append(element("span", "", `${flip.from} → ${flip.to}`), element("span", "", flip.id));
    const answers = element("dl", "answers");
    for (const [label, text] of [["Baseline", flip.baseline], ["Steered", flip.steered], ["Gold", flip.gold]]) {
      const pair = element("div"), value = element("dd");
      value.append(said(text));
      pair.append(element("dt", "", label), value);
      answers.append(pair);
    }
    node.append(head, said(flip.prompt), answers);
    return node;
  }

  function grow() {
    const next = found.slice(shown, shown + PAGE);
    list.append(...next.map((i) => card(flips[i])));
    shown += next.length;
    more.hidden = shown >= found.length;
    const matching = found.length === flips.length ? "" : ` matching, of ${flips.length.toLocaleString("en")}`;
    count.textContent = `${shown.toLocaleString("en")} shown of ${found.length.toLocaleString("en")}${matching}`;
  }

  function filter() {
    const words = search.value.toLowerCase();
    const kind = document.querySelector("#flip-filter input[name=kind]:checked").value;
    found = [];
    flips.forEach((f, i) => {
      const fits = !kind || f.kind === kind || (kind === "invalid" && (f.from === kind || f.to === kind));
      if (fits && haystack[i].includes(words)) found.push(i);
    });
    shown = 0;
    list.replaceChildren();
    grow();
  }

  let waiting;
  const form = document.getElementById("flip-filter");
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("input", () => { clearTimeout(waiting); waiting = setTimeout(filter, 80); });
  more.addEventListener("click", grow);
  form.reset();
  filter();
})();
