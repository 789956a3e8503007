// Code to read: numbered lines, a little colour, brackets for loops, and the hot loop in sight.

const code = {
  texts: null,

  /** The texts of kernels, unpacked when one is first wanted. */
  async of(kernel) {
    if (!this.texts) this.texts = unpack("code");
    return (await this.texts)[kernel];
  },

  /** Tabs of languages with the chosen text below. */
  async show(host, kernel) {
    const texts = await this.of(kernel);
    const wanted = texts.find((t) => t.language === this.language) || texts[texts.length - 1];
    const lines = this.lines(wanted);
    const tabs = el(
      "span",
      {class: "segmented", role: "group", "aria-label": "Language"},
      texts.map((t) =>
        el(
          "button",
          {
            type: "button",
            "aria-pressed": String(t === wanted),
            onclick: () => {
              this.language = t.language;
              this.show(host, kernel);
            },
          },
          t.language,
        ),
      ),
    );
    const tall = el(
      "button",
      {
        type: "button",
        class: "plain small",
        onclick: () => {
          const isTall = host.classList.toggle("tall");
          tall.textContent = isTall ? "less" : "full height";
          this.centre(lines, wanted);
        },
      },
      host.classList.contains("tall") ? "less" : "full height",
    );
    const copy = el(
      "button",
      {
        type: "button",
        class: "plain small",
        onclick: () =>
          navigator.clipboard &&
          navigator.clipboard.writeText(wanted.lines.join("\n")).then(
            () => {
              copy.textContent = "copied";
            },
            () => {
              copy.textContent = "no access";
            },
          ),
      },
      "copy",
    );
    put(host, el("div", {class: "bar-line"}, tabs, el("span", {class: "spacer"}), tall, copy), this.words(wanted, lines), lines);
    this.centre(lines, wanted);
  },

  words(text, lines) {
    if (!text.hot)
      return text.language === "assembly"
        ? el("p", {class: "muted small"}, "There is no loop with vector arithmetic in it.")
        : null;
    const c = text.counts;
    const parts = [
      plural(c.instructions, "instruction"),
      c.multiply_adds ? plural(c.multiply_adds, "multiply-add") : null,
      c.arithmetic > c.multiply_adds ? `${c.arithmetic - c.multiply_adds} other arithmetic` : null,
      c.loads ? plural(c.loads, "load") : null,
      c.stores ? plural(c.stores, "store") : null,
      c.spills ? plural(c.spills, "spill") : null,
    ].filter(Boolean);
    return el(
      "p",
      {class: "small hot-words"},
      el("button", {type: "button", class: "plain small", onclick: () => this.centre(lines, text)}, "hot loop"),
      " " + parts.join(", "),
    );
  },

  lines(text) {
    const pre = el("pre", {class: "code", tabindex: "0", "aria-label": text.language});
    const depths = new Array(text.lines.length).fill(0);
    for (const [first, last] of text.loops || []) for (let k = first; k <= last; k++) depths[k]++;
    const width = String(text.lines.length).length;
    text.lines.forEach((line, k) => {
      const hot = text.hot && k >= text.hot[0] && k <= text.hot[1];
      pre.append(
        el(
          "span",
          {class: hot ? "line hot" : "line"},
          el("i", {class: "no"}, String(k + 1).padStart(width)),
          text.loops && el("i", {class: "nest"}, "│".repeat(Math.min(depths[k], 6)).padEnd(Math.min(6, Math.max(...depths, 0)))),
          this.coloured(line, text.language),
          "\n",
        ),
      );
    });
    return pre;
  },

  centre(lines, text) {
    if (!text.hot) return;
    const first = lines.children[text.hot[0]];
    lines.scrollTop = Math.max(0, first.offsetTop - 3 * first.offsetHeight);
  },

  coloured(line, language) {
    if (language === "assembly") {
      const label = /^([.\w$]+:)(.*)$/.exec(line);
      if (label) return [el("b", {class: "c-label"}, label[1]), label[2]];
      const m = /^(\s+)(\S+)(.*)$/.exec(line);
      if (!m) return line;
      const kind = /^v\w*(add|sub|mul|div|max|min|fm|dp)/.test(m[2])
        ? "c-math"
        : /^j|^call|^ret/.test(m[2])
          ? "c-jump"
          : /^v?mov|^vbroadcast|^prefetch/.test(m[2])
            ? "c-move"
            : "c-word";
      return [m[1], el("b", {class: kind}, m[2]), m[3]];
    }
    const comment = line.search(language === "TIR" ? /#/ : /\/\//);
    const body = comment >= 0 ? line.slice(0, comment) : line;
    const pieces = body.split(/\b(for|in|if|else|while|def|return|range|const|float|int|void|static|T\.\w+|__\w+__)\b/);
    return [
      pieces.map((p, k) => (k % 2 ? el("b", {class: "c-word"}, p) : p)),
      comment >= 0 && el("b", {class: "c-note"}, line.slice(comment)),
    ];
  },
};

/** A unified diff with colours. */
function diffLines(text) {
  return el(
    "pre",
    {class: "code diff", tabindex: "0", "aria-label": "Text diff"},
    text.split("\n").map((line) => {
      const kind =
        line.startsWith("+++") || line.startsWith("---")
          ? "d-file"
          : line.startsWith("@@")
            ? "d-at"
            : line.startsWith("+")
              ? "d-plus"
              : line.startsWith("-")
                ? "d-minus"
                : "";
      return el("span", {class: "line " + kind}, line + "\n");
    }),
  );
}
