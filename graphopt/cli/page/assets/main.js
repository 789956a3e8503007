// The page itself: what is shown, where that stands in the address, and the frame around it.

const TABS = [
  ["graph", "Graph"],
  ["kernels", "Kernels"],
  ["timeline", "Timeline"],
  ["memory", "Memory"],
  ["roofline", "Roofline"],
];

const app = {
  state: {tab: "graph", pass: 0, node: null, diff: false},

  pass() {
    return model.passes[this.state.pass];
  },

  /** Show something else, and say so in the address. */
  go(change) {
    const before = {...this.state};
    Object.assign(this.state, change);
    if (change.pass !== undefined && change.pass !== before.pass && this.state.node !== null) this.follow(before.pass);
    const address = this.link({});
    if (address !== location.hash) history.pushState(null, "", address);
    const only = ["tab", "pass", "diff"].every((k) => before[k] === this.state[k]);
    if (only) this.select();
    else this.render();
  },

  /** The same op in another pass: itself, or what has its result's name there. */
  follow(from) {
    const now = model.view(this.pass().snapshot);
    if (now.byNumber.has(this.state.node)) return;
    const old = model.view(model.passes[from].snapshot).byNumber.get(this.state.node);
    const twin = old && old.results.map((r) => now.makers.get(r.name)).find(Boolean);
    this.state.node = twin ? twin.number : null;
  },

  link(change) {
    const s = {...this.state, ...change};
    const parts = [
      ["tab", s.tab],
      ["pass", model.passes[s.pass].id],
      ["node", s.node],
      ["diff", s.diff ? 1 : null],
    ];
    return (
      "#" +
      parts
        .filter(([, v]) => v !== null && v !== undefined)
        .map(([k, v]) => `${k}=${encodeURIComponent(v)}`)
        .join("&")
    );
  },

  /** The state that an address names; what it names wrongly is left as it is at the start. */
  read() {
    const given = new URLSearchParams(location.hash.slice(1));
    const pass = model.passes.findIndex((p) => p.id === given.get("pass"));
    this.state.pass = pass >= 0 ? pass : model.last;
    this.state.tab = this.tabs().some(([id]) => id === given.get("tab")) ? given.get("tab") : "graph";
    const node = Number.parseInt(given.get("node"), 10);
    this.state.node = model.view(this.pass().snapshot).byNumber.has(node) ? node : null;
    this.state.diff = given.get("diff") === "1" && this.pass().changed;
  },

  tabs() {
    const p = model.data.profile;
    return TABS.filter(([id]) => (id === "timeline" || id === "roofline" ? Boolean(p) : true));
  },

  render() {
    const tabs = byId("tabs");
    tabs.replaceChildren(
      ...this.tabs().map(([id, name]) =>
        el(
          "button",
          {
            type: "button",
            role: "tab",
            id: "tab-" + id,
            "aria-selected": String(id === this.state.tab),
            "aria-controls": "main",
            tabindex: id === this.state.tab ? "0" : "-1",
            onclick: () => this.go({tab: id}),
            onkeydown: (e) => {
              const all = this.tabs().map(([t]) => t),
                by = {ArrowRight: 1, ArrowLeft: -1}[e.key];
              if (!by) return;
              this.go({tab: all[(all.indexOf(id) + by + all.length) % all.length]});
              byId("tab-" + this.state.tab).focus();
            },
          },
          name,
        ),
      ),
    );
    search.again();
    search.say();
    passList.render(byId("passes"));
    document.body.dataset.tab = this.state.tab;
    const main = byId("main"),
      pass = this.pass();
    main.setAttribute("aria-label", TABS.find(([id]) => id === this.state.tab)[1]);
    hideTip();
    details.render(byId("details"));
    if (this.state.tab === "graph" && this.state.diff && pass.diff) {
      this.current = null;
      main.replaceChildren(graphView.toolbar(pass), el("div", {class: "scroller"}, diffLines(pass.diff)));
    } else {
      this.current = {graph: graphView, kernels: kernelTable, timeline, memory: memoryPlan, roofline}[this.state.tab];
      this.current.render(main);
      if (this.state.tab === "graph" && this.state.node !== null) graphView.reveal(this.state.node);
    }
    const chooser = el(
      "button",
      {
        type: "button",
        class: "plain pass-chooser",
        "aria-expanded": String(Boolean(passList.shown)),
        onclick: () => {
          passList.shown = !passList.shown;
          passList.render(byId("passes"));
          chooser.setAttribute("aria-expanded", String(passList.shown));
        },
      },
      "passes ▾",
    );
    const bar = main.querySelector(".toolbar");
    if (bar && this.state.tab === "graph") bar.prepend(chooser);
  },

  /** Only another op is chosen. */
  select() {
    details.render(byId("details"));
    if (!this.current) return;
    if (this.current === graphView) {
      if (this.state.node !== null) graphView.reveal(this.state.node);
      else graphView.draw();
    } else this.current.select();
  },
};

const theme = {
  start() {
    let kept = null;
    try {
      kept = localStorage.getItem("graphopt-theme");
    } catch {
      /* storage may be closed to pages from disk */
    }
    this.set(kept || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light"));
    byId("theme").addEventListener("click", () => {
      this.set(this.now === "dark" ? "light" : "dark");
      try {
        localStorage.setItem("graphopt-theme", this.now);
      } catch {
        /* as above */
      }
    });
  },

  set(name) {
    this.now = name;
    document.documentElement.dataset.theme = name;
    byId("theme").textContent = name === "dark" ? "☀" : "☾";
  },
};

async function start() {
  theme.start();
  model.open(await unpack("data"));
  const d = model.data;
  byId("target").textContent = [
    d.target,
    d.threads && plural(d.threads, "thread"),
    d.profile && seconds(d.profile.call) + " a call",
  ]
    .filter(Boolean)
    .join(" · ");
  byId("target").title = [
    `written ${d.written} by graphopt ${d.version}`,
    ...d.inputs.map(([n, t]) => `${n}: ${t}`),
    ...Object.entries(d.numbers).map(([n, v]) => `${n.replace("_", " ")}: ${typeof v === "number" ? count(v) : v}`),
  ].join("\n");
  if (d.notes.length)
    byId("body").before(
      el(
        "div",
        {class: "notes"},
        d.notes.map((n) => el("p", {}, n)),
      ),
    );
  search.start();
  app.read();
  app.render();
  addEventListener("popstate", () => {
    app.read();
    app.render();
  });
  addEventListener("resize", () => {
    if (app.current === graphView && matchMedia("(max-width: 700px)").matches !== graphView.narrow) app.render();
    else if (app.current === graphView) graphView.draw();
  });
  performance.mark("ready");
  document.documentElement.dataset.ready = String(Math.round(performance.now()));
}

start().catch((e) => {
  byId("main").replaceChildren(el("p", {class: "warn pad"}, `This page could not be drawn: ${e.message}`));
  throw e;
});
