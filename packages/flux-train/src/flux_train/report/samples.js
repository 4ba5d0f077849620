
/** What policies of some steps predict at some frames of a held-out episode. */
const samples = (() => {
  const { byId, shown, make, readJson, clamp, floats } = flux;
  const { WIDTH, HEIGHT, page, short, told, grouped, nearest, niceTicks } = curves;
  const PANEL_HEIGHT = 84; // pixels

  let sample = null; // {about, chunks, pictures, recorded, panels, frame, policy}

  const choose = (name) => {
    const about = page.samples[name];
    byId("samples").hidden = !about;
    sample = null;
    if (!about) return;
    const names = page.dimensions[name].names;
    const chunks = readJson(`chunks-${about.number}`);
    sample = {
      about,
      count: names.length,
      chunks: about.steps.map((step) => floats(chunks[step])),
      pictures: readJson(`pictures-${about.number}`).frames,
      recorded: floats(about.recorded),
      frame: 0,
      policy: about.steps.length - 1,
    };
    sample.count = sample.chunks[0].length / about.frames.length / about.horizon;
    sample.length = sample.recorded.length / sample.count;
    const size = `${grouped(sample.length)} frames`;
    byId("sample-of").textContent = `held-out episode ${about.episode}, ${size}`;
    byId("frame").max = about.frames.length - 1;
    byId("policy").max = about.steps.length - 1;
    byId("policy").disabled = about.steps.length < 2;
    byId("cameras").replaceChildren(
      ...about.cameras.map((camera) =>
        make("figure", {}, make("img", { alt: camera }), make("figcaption", {}, camera)),
      ),
    );
    const nameOf = (dim) => names[dim] ?? String(dim);
    sample.panels = Array.from({ length: sample.count }, (_, dim) => panel(nameOf(dim), dim));
    byId("samples")
      .querySelector(".grid")
      .replaceChildren(...sample.panels.map(({ figure }) => figure));
    drawSample();
  };

  const panel = (name, dim) => {
    const { recorded, count, length, chunks, about } = sample;
    let [low, high] = [Infinity, -Infinity];
    const see = (value) => {
      if (!Number.isFinite(value)) return;
      low = Math.min(low, value);
      high = Math.max(high, value);
    };
    for (let i = dim; i < recorded.length; i += count) see(recorded[i]);
    if (low > high) [low, high] = [0, 1];
    // One range for every policy, so that the slider changes the policy alone; a policy that is
    // far off may leave the range.
    const [least, most] = [low - (high - low) / 2, high + (high - low) / 2];
    for (const values of chunks) {
      for (let i = dim; i < values.length; i += count) see(clamp(values[i], least, most));
    }
    const room = (high - low || 1) * 0.08;
    const [from, to] = [low - room, high + room];
    const x = (at) => ((WIDTH * at) / Math.max(length - 1, 1)).toFixed(1);
    const y = (value) => (HEIGHT * (1 - (value - from) / (to - from))).toFixed(2);
    const curve = (value, first, size) => {
      let text = "";
      for (let i = 0; i < size; i++) text += `${i ? "L" : "M"}${x(first + i)} ${y(value(i))}`;
      return text;
    };
    const line = make("path", {
      class: "recorded",
      d: curve((i) => recorded[i * count + dim], 0, length),
    });
    const [faint, chunk] = ["faint", "chunk"].map((kind) => make("path", { class: kind }));
    const cursor = make("line", { class: "cursor", y1: 0, y2: HEIGHT });
    const svg = make("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none" });
    svg.append(line, faint, cursor, chunk);
    const ticks = niceTicks(from, to, 2);
    const labels = ticks.map((tick) => {
      const label = make("small", {}, short(tick));
      label.style.top = `${(y(tick) / HEIGHT) * PANEL_HEIGHT}px`;
      return label;
    });
    const box = make("div", { class: "chart" }, svg, ...labels);
    const value = make("output", { class: "muted" });
    const figure = make("figure", { class: "small" });
    figure.append(make("figcaption", {}, name, value), box);
    box.addEventListener("pointerdown", (event) => {
      const bounds = svg.getBoundingClientRect();
      const at = ((event.clientX - bounds.left) / bounds.width) * (length - 1);
      seek(nearest(about.frames, at));
    });
    const draw = () => {
      const { frames, horizon, firstStep, real } = about;
      const values = chunks[sample.policy];
      const pathOf = (place) => {
        const first = frames[place] + firstStep;
        const value = (k) => values[(place * horizon + k) * count + dim];
        return curve(value, first, real[place]);
      };
      const others = frames.map((_, place) => (place === sample.frame ? "" : pathOf(place)));
      faint.setAttribute("d", others.join(""));
      chunk.setAttribute("d", pathOf(sample.frame));
      for (const end of ["x1", "x2"]) cursor.setAttribute(end, x(frames[sample.frame]));
      let error = 0;
      for (let k = 0; k < real[sample.frame]; k++) {
        const at = frames[sample.frame] + firstStep + k;
        const predicted = values[(sample.frame * horizon + k) * count + dim];
        error += Math.abs(predicted - recorded[at * count + dim]) / real[sample.frame];
      }
      value.textContent = `off by ${told(error)}`;
    };
    return { figure, draw };
  };

  const drawSample = () => {
    const { about, pictures, frame, policy } = sample;
    for (const { draw } of sample.panels) draw();
    byId("frame").value = frame;
    byId("policy").value = policy;
    const seconds = (about.frames[frame] / about.fps).toFixed(2);
    byId("frame-value").textContent = `${grouped(about.frames[frame])} · ${seconds} s`;
    byId("policy-value").textContent = grouped(about.steps[policy]);
    byId("cameras")
      .querySelectorAll("img")
      .forEach((image, camera) => {
        image.src = `data:image/jpeg;base64,${pictures[frame][camera]}`;
      });
    Object.assign(shown, { frame: about.frames[frame], policy: about.steps[policy] });
  };

  const seek = (frame, policy = sample?.policy) => {
    if (!sample) return;
    sample.frame = clamp(frame, 0, sample.about.frames.length - 1);
    sample.policy = clamp(policy, 0, sample.about.steps.length - 1);
    drawSample();
  };

  const start = () => {
    byId("frame")?.addEventListener("input", (event) => seek(Number(event.target.value)));
    byId("policy")?.addEventListener("input", (event) =>
      seek(sample.frame, Number(event.target.value)),
    );
    document.addEventListener("keydown", (event) => {
      const hasModifier = event.ctrlKey || event.metaKey || event.altKey;
      const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], p: [0, -1], n: [0, 1] };
      if (!sample || hasModifier || event.target.tagName === "INPUT") return;
      if (!Object.hasOwn(moves, event.key)) return;
      const [frames, policies] = moves[event.key];
      seek(sample.frame + frames, sample.policy + policies);
      event.preventDefault();
    });
  };
  return { start, choose };
})();
