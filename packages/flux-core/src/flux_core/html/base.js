
"use strict";
const flux = (() => {
  const byId = (id) => document.getElementById(id);
  const root = document.documentElement;
  // What is shown, for whoever drives the page from outside.
  const shown = root.dataset;
  shown.errors = "0";

  const complain = (message) => {
    shown.errors = String(Number(shown.errors) + 1);
    byId("error").hidden = false;
    byId("error").textContent = `This page has failed: ${message}`;
  };
  addEventListener("error", (event) => complain(event.message));
  addEventListener("unhandledrejection", (event) => complain(String(event.reason)));

  const make = (tag, attributes = {}, ...children) => {
    const isSvg = ["svg", "path", "line", "circle", "rect"].includes(tag);
    const node = isSvg
      ? document.createElementNS("http://www.w3.org/2000/svg", tag)
      : document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
    node.append(...children);
    return node;
  };
  const readJson = (id) => JSON.parse(byId(id).textContent);
  const clamp = (value, low, high) => Math.min(Math.max(value, low), high);
  const written = (value, span) => {
    if (!Number.isFinite(value)) return "–";
    const places = span > 0 ? clamp(2 - Math.floor(Math.log10(span)), 0, 8) : 3;
    const text = value.toFixed(places);
    return (Number(text) === 0 ? text.replace("-", "") : text).replace("-", "−");
  };
  const floats = (text) => {
    const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
    const view = new DataView(bytes.buffer);
    return Float32Array.from({ length: bytes.length / 4 }, (_, i) => view.getFloat32(4 * i, true));
  };
  return { byId, root, shown, make, readJson, clamp, written, floats };
})();
