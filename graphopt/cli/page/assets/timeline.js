// One call from left to right: modules above, as in a flame graph, kernels at the bottom.

const timeline = {
  from: 0,
  to: 1, // the part in sight, as parts of the whole

  render(host) {
    const rows = model.data.profile.rows;
    this.spans = [];
    let at = 0;
    rows.forEach((r, k) => {
      this.spans.push({step: k, start: at, end: at + r.seconds});
      at += r.seconds;
    });
    this.total = at || 1;
    this.groups = this.modules();
    const whole = el(
      "button",
      {
        type: "button",
        onclick: () => {
          [this.from, this.to] = [0, 1];
          this.again();
        },
      },
      "whole call",
    );
    const bar = toolbar(
      "One call",
      callWords() + ", laid end to end",
      el("span", {class: "spacer"}),
      el(
        "span",
        {class: "segmented"},
        whole,
        el("button", {type: "button", "aria-label": "Closer", onclick: () => this.zoom(0.5, 0.6)}, "+"),
        el("button", {type: "button", "aria-label": "Farther", onclick: () => this.zoom(0.5, 1 / 0.6)}, "−"),
      ),
    );
    const floors = rows.some((r) => r.floor);
    const below = el(
      "div",
      {class: "sums"},
      this.sums(
        "By module",
        (k) => {
          const op = opOfStep(k);
          return op && op.module ? this.outer(op.module) : "no module";
        },
        "module",
      ),
      this.sums("By kind of op", (k) => rows[k].kind, "kind"),
    );
    this.again = chart(
      host,
      bar,
      (w, h) => this.draw(w, h),
      el(
        "div",
        {},
        legend(
          rows.map((_, k) => kindOfStep(k)),
          floors && entry("halves", "full colour: the floor, by this machine's peaks; faint: above it"),
        ),
        below,
      ),
      26 + this.groups.length * 29 + 150,
    );
  },

  /** Runs of steps of one module, by depth. */
  modules() {
    const levels = [];
    const paths = this.spans.map((s) => {
      const op = opOfStep(s.step);
      return op && op.module ? op.module.split(".") : [];
    });
    const depth = Math.min(6, Math.max(0, ...paths.map((p) => p.length)));
    for (let d = 0; d < depth; d++) {
      const runs = [];
      paths.forEach((p, k) => {
        const name = p.length > d ? p.slice(0, d + 1).join(".") : null;
        const last = runs[runs.length - 1];
        if (last && last.name === name) last.end = this.spans[k].end;
        else runs.push({name, start: this.spans[k].start, end: this.spans[k].end});
      });
      const named = runs.filter((r) => r.name !== null);
      const same =
        levels.length &&
        JSON.stringify(named.map((r) => [r.start, r.end])) ===
          JSON.stringify(levels[levels.length - 1].map((r) => [r.start, r.end]));
      if (same) levels[levels.length - 1] = named;
      else if (named.length) levels.push(named);
    }
    return levels;
  },

  /** The outermost part of a module's path that tells modules apart. */
  outer(module) {
    if (this.parts === undefined) {
      const paths = this.spans.map((s) => {
        const op = opOfStep(s.step);
        return op && op.module ? op.module.split(".") : [];
      });
      this.parts = 1;
      while (this.parts < 5 && new Set(paths.map((p) => p.slice(0, this.parts).join("."))).size < 5) this.parts++;
    }
    return module.split(".").slice(0, this.parts).join(".");
  },

  /** Bars of the time by some name, the longest first. */
  sums(title, of) {
    const by = new Map();
    this.spans.forEach((s) => {
      const name = of(s.step);
      by.set(name, (by.get(name) || 0) + s.end - s.start);
    });
    const sorted = [...by].sort((a, b) => b[1] - a[1]);
    return el(
      "section",
      {},
      el("h2", {}, title),
      sorted
        .slice(0, 14)
        .map(([name, time]) =>
          el(
            "div",
            {class: "sum"},
            el("span", {class: "label"}, name),
            el("span", {class: "bar"}, el("i", {style: {width: (100 * time) / sorted[0][1] + "%"}})),
            el("span", {class: "number"}, seconds(time)),
            el("span", {class: "number muted"}, percent(time / this.total)),
          ),
        ),
      sorted.length > 14 && el("p", {class: "muted small"}, `and ${sorted.length - 14} more`),
    );
  },

  zoom(centre, factor) {
    const width = Math.min(1, Math.max(1e-4, (this.to - this.from) * factor));
    const at = this.from + centre * (this.to - this.from);
    this.from = Math.min(1 - width, Math.max(0, at - centre * width));
    this.to = this.from + width;
    this.again();
  },

  draw(width, height) {
    const top = 26,
      left = 12,
      w = width - 2 * left;
    const levels = this.groups.length,
      tall = 26;
    const x = (t) => left + (w * (t / this.total - this.from)) / (this.to - this.from);
    const drawing = drawingOf(width, height, "timeline", "Timeline of one call; the Kernels table has the numbers", {
      onwheel: (e) => {
        if (!e.ctrlKey && Math.abs(e.deltaX) < Math.abs(e.deltaY) && !e.shiftKey) {
          e.preventDefault();
          this.zoom((e.offsetX - left) / w, e.deltaY > 0 ? 1.25 : 0.8);
        }
      },
    });
    this.drag(drawing, w);
    const seen = this.total * (this.to - this.from);
    for (const t of ticks(seen, Math.max(2, w / 110))) {
      const at = t + Math.ceil((this.from * this.total) / (ticks(seen, w / 110)[1] || 1)) * (ticks(seen, w / 110)[1] || 1);
      if (x(at) > width - left) continue;
      drawing.append(
        svg("line", {x1: x(at), x2: x(at), y1: top - 6, y2: height, class: "grid"}),
        svg("text", {x: x(at) + 3, y: 14, class: "axis"}, seconds(at)),
      );
    }
    const box = (start, end, row, size, attributes, label) => {
      const [a, b] = [Math.max(x(start), left - 2), Math.min(x(end), width - left + 2)];
      if (b < left || a > width - left || b <= a) return null;
      const g = svg(
        "g",
        attributes,
        svg("rect", {x: a, y: top + row * (tall + 3), width: Math.max(b - a - 0.6, 0.6), height: size, rx: 2}),
      );
      const words = label && cut(label, b - a, Math.min(label.length, 6));
      if (words) g.append(svg("text", {x: a + 5, y: top + row * (tall + 3) + Math.min(size, tall) / 2 + 4}, words));
      return g;
    };
    this.groups.forEach((runs, row) =>
      runs.forEach((r) => {
        const part = (r.end - r.start) / this.total;
        drawing.append(
          box(
            r.start,
            r.end,
            row,
            tall,
            {
              class: "span-group",
              onclick: () => {
                if (!this.dragged) {
                  [this.from, this.to] = [r.start / this.total, r.end / this.total];
                  this.again();
                }
              },
              onmousemove: (e) => showTip(e, el("b", {}, r.name), `${seconds(r.end - r.start)}, ${percent(part)} of the call`),
              onmouseleave: hideTip,
            },
            x(r.end) - x(r.start) > 7 * r.name.length + 12
              ? r.name
              : r.name
                  .split(".")
                  .slice(/^\d+$/.test(r.name.split(".").pop()) ? -2 : -1)
                  .join("."),
          ) || "",
        );
      }),
    );
    const size = Math.max(20, height - top - levels * (tall + 3) - 10);
    for (const s of this.spans) {
      const on = model.data.steps[s.step].op === app.state.node;
      const events = stepEvents(s.step);
      const shape = box(
        s.start,
        s.end,
        levels,
        size,
        {
          ...events,
          onclick: () => {
            if (!this.dragged) events.onclick();
          },
          class: `span k-${kindOfStep(s.step)}${on ? " on" : ""}`,
        },
        labelOfStep(s.step),
      );
      if (!shape) continue;
      const floor = model.data.profile.rows[s.step].floor;
      if (floor) {
        const a = Math.max(x(s.start), left - 2),
          b = Math.min(x(Math.min(s.start + floor, s.end)), width - left + 2);
        if (b > a)
          shape.firstChild.after(
            svg("rect", {x: a, y: top + levels * (tall + 3), width: b - a, height: size, rx: 2, class: "floor-mark"}),
          );
      }
      drawing.append(shape);
    }
    return drawing;
  },

  drag(drawing, w) {
    drawing.addEventListener("pointerdown", (down) => {
      const [from, to] = [this.from, this.to];
      this.dragged = false;
      const move = (e) => {
        const by = ((down.clientX - e.clientX) / w) * (to - from);
        if (Math.abs(e.clientX - down.clientX) > 4) this.dragged = true;
        if (!this.dragged || to - from >= 1) return;
        this.from = Math.min(1 - (to - from), Math.max(0, from + by));
        this.to = this.from + (to - from);
        this.again();
      };
      const up = () => {
        removeEventListener("pointermove", move);
        removeEventListener("pointerup", up);
      };
      addEventListener("pointermove", move);
      addEventListener("pointerup", up);
    });
  },

  select() {
    this.again();
  },
};
