
/** Curves over steps that share their axis, their cursor and their part of the run. */
const curves = (() => {
  const { byId, shown, make, readJson, clamp, floats } = flux;
  const WIDTH = 1000; // of a drawing, in its own units
  const HEIGHT = 100;
  const LEAST_DRAG = 6; // pixels: less is a click

  const page = readJson("page-data");

  // ---- Numbers as text

  const MINUS = (text) => text.replace("-", "−");
  const grouped = (value) => Math.round(value).toLocaleString("en");
  const short = (value) => {
    if (!Number.isFinite(value)) return "–";
    const size = Math.abs(value);
    if (size === 0) return "0";
    if (size >= 1000) return MINUS(grouped(value));
    if (size >= 0.001) return MINUS(String(Number(value.toPrecision(3))));
    return MINUS(value.toExponential(1).replace("e-", "e−"));
  };
  /** As `short`, with all three digits: numbers in a column. */
  const told = (value) => {
    const size = Math.abs(value);
    return size >= 0.001 && size < 1000 ? MINUS(value.toPrecision(3)) : short(value);
  };
  const percent = (value) => `${short(100 * value)}%`;
  const gibibytes = (value) => `${short(value)} GiB`;

  // ---- What is shown

  const look = { scale: "log", axis: "step", smoothing: 0, from: 0, to: 1, hover: null };
  const hidden = new Set();
  const steps = { train: null, validation: null };

  const place = (step) => (WIDTH * (step - look.from)) / (look.to - look.from || 1);
  const epochOf = (step) => step / page.stepsPerEpoch;
  const onAxis = (step) =>
    look.axis === "epoch" ? `epoch ${epochOf(step).toFixed(2)}` : `step ${grouped(step)}`;

  const nearest = (sorted, step) => {
    let [low, high] = [0, sorted.length - 1];
    while (high - low > 1) {
      const middle = (low + high) >> 1;
      if (sorted[middle] < step) low = middle;
      else high = middle;
    }
    return Math.abs(sorted[high] - step) < Math.abs(sorted[low] - step) ? high : low;
  };

  /** Weights fall off exponentially on both sides, so that the curve does not lag behind. */
  const smooth = (values) => {
    const weight = look.smoothing;
    if (weight === 0) return values;
    const total = new Float64Array(values.length);
    const mass = new Float64Array(values.length);
    const sweep = (from, to, direction) => {
      let [sum, size] = [0, 0];
      for (let i = from; i !== to; i += direction) {
        const isThere = Number.isFinite(values[i]);
        // A point's own weight counts in one direction only.
        if (isThere && direction > 0) [sum, size] = [sum + values[i], size + 1];
        total[i] += sum;
        mass[i] += size;
        if (isThere && direction < 0) [sum, size] = [sum + values[i], size + 1];
        [sum, size] = [weight * sum, weight * size];
      }
    };
    sweep(0, values.length, 1);
    sweep(values.length - 1, -1, -1);
    return values.map((value, i) => (Number.isFinite(value) ? total[i] / mass[i] : NaN));
  };

  const niceTicks = (low, high, count) => {
    const rough = (high - low) / count;
    const power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 2.5, 5, 10].find((factor) => factor * power >= rough) * power;
    const ticks = [];
    for (let i = Math.ceil(low / step); i * step <= high * (1 + 1e-12); i++) ticks.push(i * step);
    return ticks;
  };

  const FACTORS = [[1, 1.5, 2, 3, 5, 7], [1, 2, 5], [1, 3], [1]];
  /** Powers of ten and, as far as there is room for `count`, numbers between them. */
  const logTicks = (low, high, count) => {
    const powers = [];
    for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high); power++) {
      powers.push(10 ** power);
    }
    for (const factors of FACTORS) {
      const all = powers.flatMap((power) => factors.map((factor) => factor * power));
      const ticks = all.filter((tick) => tick >= low && tick <= high);
      if (ticks.length <= count + 1 && ticks.length > 1) return ticks;
    }
    const every = Math.ceil(powers.length / count);
    const ticks = powers.filter((power, i) => i % every === 0 && power >= low && power <= high);
    return ticks.length > 1 ? ticks : niceTicks(low, high, count);
  };

  // ---- One chart: lines over steps

  const path = (xs, ys, y) => {
    let text = "";
    let isGap = true;
    for (let i = 0; i < ys.length; i++) {
      const at = y(ys[i]);
      if (!Number.isFinite(at)) {
        isGap = true;
        continue;
      }
      text += `${isGap ? "M" : "L"}${place(xs[i]).toFixed(1)} ${at.toFixed(2)}`;
      isGap = false;
    }
    return text;
  };

  const dots = (xs, ys, y) =>
    Array.from(ys, (value, i) =>
      Number.isFinite(y(value)) ? `M${place(xs[i]).toFixed(1)} ${y(value).toFixed(2)}h.01` : "",
    ).join("");

  const area = (xs, low, high, y) => {
    const points = [];
    for (let i = 0; i < xs.length; i++) {
      const [a, b] = [y(low[i]), y(high[i])];
      if (Number.isFinite(a) && Number.isFinite(b)) points.push([place(xs[i]).toFixed(1), a, b]);
    }
    const top = points.map(([x, , b]) => `${x} ${b.toFixed(2)}`);
    const bottom = points.reverse().map(([x, a]) => `${x} ${a.toFixed(2)}`);
    return points.length ? `M${[...top, ...bottom].join("L")}Z` : "";
  };

  const charts = [];

  /** `lines`: {key, kind, steps, mean, low, high, isRaw, hasDots}; `options`: {isLog, write}. */
  const makeChart = (lines, options) => {
    const svg = make("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none" });
    const labels = make("div");
    const across = make("div", { class: "across" });
    const box = make("div", { class: "chart" }, svg, labels, across);
    const cursor = make("line", { class: "cursor", y1: 0, y2: HEIGHT, visibility: "hidden" });
    const chosen = make("rect", { class: "chosen", y: 0, height: HEIGHT, visibility: "hidden" });

    const visible = () => lines.filter((line) => !hidden.has(line.key));

    const range = () => {
      const isLog = options.isLog();
      let [low, high] = [Infinity, -Infinity];
      const see = (value) => {
        if (!Number.isFinite(value) || (isLog && value <= 0)) return;
        low = Math.min(low, value);
        high = Math.max(high, value);
      };
      for (const line of visible()) {
        line.steps.forEach((step, i) => {
          if (step < look.from || step > look.to) return;
          for (const values of [line.mean, line.low, line.high]) see(values?.[i]);
        });
      }
      if (low > high) return isLog ? [0.1, 1] : [0, 1];
      if (isLog) return [low / 1.12, high * 1.12];
      if (options.fromZero && low > 0) low = 0;
      const room = (high - low || Math.abs(high) || 1) * 0.06;
      return [low === 0 ? 0 : low - room, high + room];
    };

    const draw = () => {
      const isLog = options.isLog();
      const [low, high] = range();
      const share = isLog
        ? (value) => (value > 0 ? Math.log(value / low) / Math.log(high / low) : NaN)
        : (value) => (value - low) / (high - low);
      const y = (value) => HEIGHT * (1 - share(value));
      const ticks = (isLog ? logTicks : niceTicks)(low, high, options.ticks ?? 3);
      const parts = ticks.map((tick) =>
        make("path", { class: "tick", d: `M0 ${y(tick).toFixed(2)}H${WIDTH}` }),
      );
      for (const step of page.resumed) {
        parts.push(make("path", { class: "resumed", d: `M${place(step).toFixed(1)} 0V${HEIGHT}` }));
      }
      for (const line of visible()) {
        const { kind, steps: xs, mean } = line;
        const add = (type, d) => parts.push(make("path", { class: `${type} ${kind}`, d }));
        if (line.low) add("spread", area(xs, line.low, line.high, y));
        if (line.hasDots) {
          add("held", path(xs, mean, y));
          add("dots", dots(xs, mean, y));
        } else if (line.isRaw) {
          if (look.smoothing) add("raw", path(xs, mean, y));
          add("line", path(xs, smooth(mean), y));
        } else {
          add("line", path(xs, mean, y));
        }
      }
      svg.replaceChildren(...parts, chosen, cursor);
      labels.replaceChildren(
        ...ticks.map((tick) => {
          const label = make("small", {}, options.write(tick));
          label.style.top = `${(y(tick) / HEIGHT) * svg.clientHeight}px`;
          return label;
        }),
      );
      const room = Math.max(svg.clientWidth / 110, 2);
      across.replaceChildren(...axisLabels(Math.min(options.axisTicks ?? 2, room)));
    };

    const stepAt = (event) => {
      const bounds = svg.getBoundingClientRect();
      const share = clamp((event.clientX - bounds.left) / bounds.width, 0, 1);
      return look.from + share * (look.to - look.from);
    };
    let begun = null;
    box.addEventListener("pointerdown", (event) => {
      if (event.button !== 0) return;
      begun = { step: stepAt(event), x: event.clientX };
      box.setPointerCapture(event.pointerId);
    });
    box.addEventListener("pointermove", (event) => {
      hoverAt(stepAt(event));
      if (!begun || Math.abs(event.clientX - begun.x) < LEAST_DRAG) return;
      const ends = [place(begun.step), place(stepAt(event))].sort((a, b) => a - b);
      chosen.setAttribute("visibility", "visible");
      chosen.setAttribute("x", ends[0]);
      chosen.setAttribute("width", ends[1] - ends[0]);
    });
    box.addEventListener("pointerup", (event) => {
      chosen.setAttribute("visibility", "hidden");
      if (begun && Math.abs(event.clientX - begun.x) >= LEAST_DRAG) {
        const ends = [begun.step, stepAt(event)].sort((a, b) => a - b);
        zoom(...ends);
      }
      begun = null;
    });
    box.addEventListener("pointerleave", () => hoverAt(null));
    box.addEventListener("dblclick", () => zoom(...wholeRun));

    const moveCursor = () => {
      const at = look.hover === null ? null : place(look.hover);
      cursor.setAttribute("visibility", at === null ? "hidden" : "visible");
      for (const end of ["x1", "x2"]) cursor.setAttribute(end, at ?? 0);
      tell();
    };
    /** The value of each line at the cursor, or its last. */
    const valueOf = ({ steps: xs, mean, low, high, isRaw }) => {
      const isLast = look.hover === null;
      let at = isLast ? xs.length - 1 : nearest(xs, look.hover);
      while (isLast && at > 0 && !Number.isFinite(mean[at])) at--;
      const shownMean = isRaw && isLast ? smooth(mean)[at] : mean[at];
      return { value: shownMean, low: low?.[at], high: high?.[at], step: xs[at] };
    };
    const tell = () => options.tell?.(lines.map((line) => ({ line, ...valueOf(line) })));

    const chart = { box, draw, moveCursor };
    charts.push(chart);
    return chart;
  };

  const axisLabels = (count) => {
    const unit = look.axis === "epoch" ? page.stepsPerEpoch : 1;
    const [low, high] = [look.from / unit, look.to / unit];
    const write = look.axis === "epoch" ? short : grouped;
    const ticks = count > 2 ? niceTicks(low, high, count) : [low, high];
    return ticks.map((tick) => {
      const at = place(tick * unit) / WIDTH;
      const label = make("span", at > 0.97 ? { class: "end" } : {}, write(tick));
      label.style.left = `${100 * at}%`;
      return label;
    });
  };

  // ---- All charts together

  const drawAll = () => {
    for (const chart of charts) chart.draw();
    hoverAt(look.hover);
    Object.assign(shown, { scale: look.scale, axis: look.axis, charts: charts.length });
  };

  const hoverAt = (step) => {
    look.hover = step;
    for (const chart of charts) chart.moveCursor();
    byId("moment").textContent = step === null ? "" : onAxis(snapped(step));
  };
  const snapped = (step) =>
    steps.train.length ? steps.train[nearest(steps.train, step)] : Math.round(step);

  const zoom = (from, to) => {
    if (to - from < 1) return;
    [look.from, look.to] = [from, to];
    byId("whole").hidden = from === wholeRun[0] && to === wholeRun[1];
    drawAll();
  };

  const table = ({ steps: text, series }) => ({
    steps: floats(text),
    series: Object.fromEntries(
      Object.entries(series).map(([name, columns]) => [
        name,
        Object.fromEntries(Object.entries(columns).map(([key, data]) => [key, floats(data)])),
      ]),
    ),
  });

  const train = table(page.train);
  const validation = table(page.validation);
  [steps.train, steps.validation] = [train.steps, validation.steps];
  const last = Math.max(1, ...[train, validation].map(({ steps: xs }) => xs[xs.length - 1] ?? 0));
  const wholeRun = [0, last];
  [look.from, look.to] = wholeRun;

  const smallChart = (title, lines, options) => {
    const value = make("output");
    const chart = makeChart(lines, {
      ...options,
      tell: (values) => {
        value.replaceChildren(
          ...values.map(({ line, value: number }) =>
            lines.length > 1
              ? make("span", { class: line.kind }, told(number))
              : options.write(number),
          ),
        );
      },
    });
    return make("figure", { class: "small" }, make("figcaption", {}, title, value), chart.box);
  };

  return {
    ...{ WIDTH, HEIGHT, page, look, hidden, charts, train, validation, wholeRun },
    ...{ short, told, percent, gibibytes, grouped, nearest, niceTicks },
    ...{ makeChart, smallChart, drawAll, zoom },
  };
})();
