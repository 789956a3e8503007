// Arithmetic intensity against operations a second, both logarithmic (Williams, Waterman and Patterson, CACM 52(4), 2009).

const roofline = {
  render(host) {
    const p = model.data.profile;
    this.points = p.rows
      .map((r, k) => ({step: k, r, x: r.operations / (r.weights + r.activations), y: r.operations / r.seconds}))
      .filter((q) => q.r.operations > 0 && q.r.seconds > 0 && isFinite(q.x) && q.x > 0);
    const least = p.rows.reduce((sum, r) => sum + (r.floor || 0), 0);
    const words = p.peaks
      ? `kernels could take ${seconds(least)} by this machine's peaks, and take ${seconds(model.total)}: ${percent(least / model.total)} of the roofline`
      : "this machine's peaks are not known";
    this.again = chart(
      host,
      toolbar("Roofline", words),
      (w, h) => this.draw(w, h),
      legend(
        this.points.map((q) => kindOfStep(q.step)),
        el("span", {class: "muted"}, "a dot's area is its share of the call"),
        p.peaks &&
          this.points.some((q) => q.y > 1.02 * p.peaks.rates.fma) &&
          el(
            "span",
            {class: "muted"},
            "above the roof: operations are counted as the model states them, and Winograd's algorithm needs fewer",
          ),
      ),
    );
  },

  draw(width, height) {
    const peaks = model.data.profile.peaks;
    const left = 66,
      right = 16,
      top = 14,
      bottom = 42,
      w = width - left - right,
      h = height - top - bottom;
    const xs = this.points.map((q) => q.x),
      ys = this.points.map((q) => q.y);
    const rates = peaks
      ? [
          ["multiply-adds, f32", peaks.rates.fma],
          ["with operands from L1", peaks.rates.fma_l1],
        ].filter((r) => r[1])
      : [];
    const bands = peaks
      ? [
          ["L1", "l1"],
          ["L2", "l2"],
          ["L3", "l3"],
          ["memory", "dram"],
        ]
          .map(([n, k]) => [n, peaks.bandwidths[k]])
          .filter((b) => b[1])
      : [];
    const low = Math.log10(Math.min(...xs, 0.1)) - 0.1,
      high = Math.log10(Math.max(...xs, 1000)) + 0.15;
    const most = Math.log10(Math.max(...ys, ...rates.map((r) => r[1]), 1e9)) + 0.2,
      least = Math.min(Math.log10(Math.max(Math.min(...ys, 1e9), 1e6)), most - 2) - 0.15;
    const x = (v) => left + (w * (Math.log10(v) - low)) / (high - low),
      y = (v) => top + h * (1 - (Math.log10(v) - least) / (most - least));
    const drawing = drawingOf(width, height, "roofline", "Roofline of the kernels; the Kernels table has the numbers");
    for (let e = Math.ceil(low); e <= high; e++)
      drawing.append(
        svg("line", {x1: x(10 ** e), x2: x(10 ** e), y1: top, y2: top + h, class: "grid"}),
        svg("text", {x: x(10 ** e), y: top + h + 16, class: "axis middle"}, e >= 0 ? String(10 ** e) : (10 ** e).toFixed(-e)),
      );
    for (let e = Math.ceil(least); e <= most; e++)
      drawing.append(
        svg("line", {x1: left, x2: left + w, y1: y(10 ** e), y2: y(10 ** e), class: "grid"}),
        svg("text", {x: left - 6, y: y(10 ** e) + 4, class: "axis end-anchor"}, digits(10 ** (e - 9))),
      );
    drawing.append(
      svg("text", {x: left + w, y: height - 6, class: "axis end-anchor"}, "operations per byte"),
      svg("text", {x: left + 6, y: top + 12, class: "axis"}, "GFLOP/s"),
    );
    const roof = rates.length ? rates[0][1] : null;
    bands.forEach(([name, rate], k) => {
      const from = 10 ** low,
        to = Math.min(roof / rate, 10 ** high);
      const start = Math.max(from, 10 ** least / rate);
      if (start >= to) return;
      const slope = (Math.atan2(y(to * rate) - y(start * rate), x(to) - x(start)) * 180) / Math.PI;
      drawing.append(svg("line", {x1: x(start), y1: y(start * rate), x2: x(to), y2: y(to * rate), class: "roof"}));
      const at = start * (to / start) ** (0.18 + 0.12 * k);
      drawing.append(
        svg(
          "text",
          {x: x(at), y: y(at * rate) - 4, class: "axis", transform: `rotate(${slope} ${x(at)} ${y(at * rate) - 4})`},
          `${name} ${digits(rate / 1e9)} GB/s`,
        ),
      );
    });
    rates.forEach(([name, rate], k) => {
      const from = bands.length ? Math.max(rate / bands[0][1], 10 ** low) : 10 ** low;
      drawing.append(
        svg("line", {x1: x(from), x2: left + w, y1: y(rate), y2: y(rate), class: k ? "roof faint" : "roof"}),
        svg(
          "text",
          {x: left + w - 4, y: y(rate) + (k ? 13 : -5), class: "axis end-anchor"},
          `${name} ${digits(rate / 1e9)} GFLOP/s`,
        ),
      );
    });
    for (const q of [...this.points].sort((a, b) => b.r.seconds - a.r.seconds)) {
      const on = model.data.steps[q.step].op === app.state.node;
      drawing.append(
        svg("circle", {
          cx: x(q.x),
          cy: y(Math.max(q.y, 10 ** least)),
          r: 3 + 26 * Math.sqrt(q.r.seconds / model.total),
          ...stepEvents(q.step),
          class: `point k-${kindOfStep(q.step)}${on ? " on" : ""}`,
        }),
      );
    }
    return drawing;
  },

  select() {
    this.again();
  },
};
