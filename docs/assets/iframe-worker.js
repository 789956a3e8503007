// The search runs in a worker, which browsers refuse to pages opened from disk: there its script runs in a frame instead.
if (location.protocol === "file:") {
  window.IFrameWorker = class extends EventTarget {
    constructor(url) {
      super();
      const frame = document.createElement("iframe");
      this.ready = new Promise((loaded) => frame.addEventListener("load", loaded, { once: true }));
      this.frame = frame;
      frame.hidden = true;
      frame.answer = (data) => this.dispatchEvent(new MessageEvent("message", { data }));
      frame.srcdoc = "<script>window.postMessage = (data) => frameElement.answer(data)</script>" +
        `<script src="${new URL(url, document.baseURI).href}"></script>`;
      document.documentElement.appendChild(frame);
    }

    postMessage(data) {
      this.ready.then(() => this.frame.contentWindow.dispatchEvent(new MessageEvent("message", { data })));
    }

    terminate() {
      this.frame.remove();
    }
  };
  window.Worker = window.IFrameWorker;
}
