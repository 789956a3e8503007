// The arena: offsets upwards, steps to the right, and a box for all that lives in it.

const memoryPlan = {
  render(host) {
    const m = model.data.memory;
    const spare = m.bound ? m.size / m.bound - 1 : 0;
    const words = m.size
      ? `arena ${bytes(m.size)}, ${spare < 0.0005 ? "as small as any plan can be" : `${percent(spare)} above what lives at once`}; weights ${bytes(m.weights)}`
      : `no arena is needed; weights ${bytes(m.weights)}`;
    this.again = chart(
      host,
      toolbar("Memory", words),
      (w, h) => this.draw(w, h),
      legend(
        m.blocks.filter((b) => b[5] !== null).map((b) => kindOfStep(b[0])),
        m.blocks.length > 0 && [entry("dot k-scratch", "scratch of a kernel"), entry("rule", "live at once")],
      ),
    );
  },

  draw(width, height) {
    const m = model.data.memory;
    const left = 74,
      right = 14,
      top = 12,
      bottom = 34,
      w = width - left - right,
      h = height - top - bottom;
    const most = Math.max(m.size, 1),
      n = Math.max(m.steps, 1);
    const x = (step) => left + (w * step) / n,
      y = (offset) => top + h * (1 - offset / most);
    const drawing = drawingOf(width, height, "memory", "Lifetimes of tensors against their offsets in the arena");
    for (const t of ticks(most, 6, 2)) {
      drawing.append(
        svg("line", {x1: left, x2: width - right, y1: y(t), y2: y(t), class: "grid"}),
        svg("text", {x: left - 6, y: y(t) + 4, class: "axis end-anchor"}, bytes(t)),
      );
    }
    for (const t of ticks(n, Math.max(2, w / 80))) {
      if (t % 1 === 0) drawing.append(svg("text", {x: x(t), y: height - 16, class: "axis"}, String(t)));
    }
    drawing.append(svg("text", {x: width - right, y: height - 2, class: "axis end-anchor"}, "step of the call"));
    const live = new Array(n).fill(0);
    for (const [first, last, offset, size, name, number] of m.blocks) {
      for (let k = first; k <= Math.min(last, n - 1); k++) live[k] += size;
      const on = number !== null && number === app.state.node;
      const [a, b, hi, lo] = [x(first), x(Math.min(last + 1, n)), y(offset + size), y(offset)];
      const box = svg(
        "g",
        {
          class: `block ${number === null ? "k-scratch" : "k-" + kindOfStep(first)}${on ? " on" : ""}`,
          onmouseleave: hideTip,
          onmousemove: (e) =>
            showTip(
              e,
              el("b", {}, name ? "%" + name : "scratch"),
              `${bytes(size)} at offset ${bytes(offset)}`,
              `from step ${first} (${labelOfStep(Math.min(first, n - 1))}) to step ${last}`,
            ),
          onclick: () => number !== null && app.go({node: number, pass: model.last}),
        },
        svg("rect", {
          x: a,
          y: hi,
          width: Math.max(b - a - 1, 1),
          height: Math.max(lo - hi - 1, 1),
          rx: Math.min(2, (lo - hi) / 3),
        }),
      );
      const label = name && lo - hi > 13 && cut(name, b - a, 4);
      if (label) box.append(svg("text", {x: a + 4, y: (hi + lo) / 2 + 4}, label));
      drawing.append(box);
    }
    let line = "";
    live.forEach((v, k) => {
      line += `${k ? "L" : "M"}${x(k)} ${y(v)}L${x(k + 1)} ${y(v)}`;
    });
    drawing.append(svg("path", {d: line, class: "live"}));
    return drawing;
  },

  select() {
    this.again();
  },
};
