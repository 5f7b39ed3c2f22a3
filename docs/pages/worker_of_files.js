// A page that is opened from a disk may start no worker, and the theme's search is one. Here its
// script runs in a hidden frame of the same page instead. The theme asks for `IFrameWorker`.
"use strict";
if (location.protocol === "file:" || location.protocol === "about:") {
  window.IFrameWorker = class extends EventTarget {
    constructor(source) {
      super();
      const frame = document.createElement("iframe");
      frame.hidden = true;
      document.body.append(frame);
      this.inner = frame.contentWindow;
      this.inner.postMessage = (data) => {
        const message = new MessageEvent("message", { data });
        this.dispatchEvent(message);
        this.onmessage?.(message);
      };
      const script = frame.contentDocument.createElement("script");
      script.src = source;
      this.started = new Promise((resolve, reject) => {
        script.onload = resolve;
        script.onerror = () => reject(new Error(`${source} cannot be read`));
      });
      frame.contentDocument.body.append(script);
    }

    postMessage(data) {
      this.started.then(() =>
        this.inner.dispatchEvent(new this.inner.MessageEvent("message", { data })),
      );
    }

    terminate() {
      this.inner.frameElement.remove();
    }
  };
  window.Worker = window.IFrameWorker;
}
