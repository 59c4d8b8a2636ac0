// Search in pages that are opened from a folder. Browsers start no Worker from a file: URL, so there the worker's script
// runs in a hidden iframe that looks like a Worker from both sides. The theme's search asks for window.IFrameWorker.
class IFrameWorker extends EventTarget {
  constructor(url) {
    super();
    this.iframe = document.createElement("iframe");
    this.iframe.hidden = true;
    document.body.appendChild(this.iframe);
    const inside = this.iframe.contentWindow;
    inside.postMessage = (data) => this.dispatchEvent(new MessageEvent("message", { data }));
    inside.importScripts = (...urls) =>
      urls.reduce((loaded, next) => loaded.then(() => this.load(next)), Promise.resolve());
    this.ready = this.load(url);
  }

  load(url) {
    const { contentDocument } = this.iframe;
    return new Promise((resolve, reject) => {
      const script = contentDocument.createElement("script");
      Object.assign(script, { src: url, onload: resolve, onerror: reject });
      contentDocument.body.appendChild(script);
    });
  }

  postMessage(data) {
    const { contentWindow } = this.iframe;
    this.ready.then(() => contentWindow.dispatchEvent(new MessageEvent("message", { data })));
  }

  terminate() {
    this.iframe.remove();
  }
}

if (location.protocol === "file:") {
  window.IFrameWorker = window.Worker = IFrameWorker;
}
