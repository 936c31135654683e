// Curves and bars as SVG; their texts are HTML beside them. Pure.

import { figure } from "../views/format.ts";
import { type Html, html } from "./html.ts";

/** More points are averaged in groups. */
const pointsMax = 240;
const [width, height] = [600, 120];

interface Curve {
  readonly label: string;
  /** Evenly spaced; undefined leaves a gap. */
  readonly values: readonly (number | undefined)[];
  /** CSS class of its colour. */
  readonly tone: "a" | "b";
}

interface Chart {
  readonly title: string;
  readonly unit: string;
  readonly curves: readonly Curve[];
  /** Labels under its ends. */
  readonly ends: readonly [from: string, to: string];
  /** Lower bound of the axis unless a value is below. */
  readonly floor: number;
}

const isKnown = (value: number | undefined): value is number => value !== undefined && Number.isFinite(value);

function binned(values: readonly (number | undefined)[]): readonly (number | undefined)[] {
  const per = Math.ceil(values.length / pointsMax);
  if (per <= 1) return values;
  return Array.from({ length: Math.ceil(values.length / per) }, (_, i) => {
    const part = values.slice(i * per, (i + 1) * per).filter(isKnown);
    return part.length === 0 ? undefined : part.reduce((a, b) => a + b, 0) / part.length;
  });
}

function pathOf(values: readonly (number | undefined)[], low: number, high: number): string {
  const across = width / Math.max(1, values.length - 1);
  let pen = "M";
  return values
    .flatMap((value, i) => {
      if (!isKnown(value)) {
        pen = "M";
        return [];
      }
      const point = `${pen}${(i * across).toFixed(1)} ${(height - ((value - low) / (high - low)) * height).toFixed(1)}`;
      // A single point is drawn as a line of length 0 with round ends.
      const alone = pen === "M" && !isKnown(values[i + 1]) ? "h0" : "";
      pen = "L";
      return [point + alone];
    })
    .join("");
}

export function chart({ title, unit, curves, ends, floor }: Chart): Html {
  const drawn = curves.map((curve) => ({ ...curve, points: binned(curve.values) }));
  const known = drawn.flatMap(({ points }) => points.filter(isKnown));
  if (known.length === 0) return html`<figure class="chart"><figcaption><b>${title}</b> nothing is known yet</figcaption></figure>`;
  const low = known.reduce((a, b) => Math.min(a, b), floor);
  const top = known.reduce((a, b) => Math.max(a, b), low);
  const high = top > low ? top : low + 1;
  const now = curves.map(
    ({ label, values, tone }) =>
      html`<span class="key ${tone}">${label} ${figure(values.at(-1))}${values.at(-1) === undefined ? "" : unit}</span>`,
  );
  const text = curves.map(({ label, values }) => `${label} ${figure(values.at(-1))}${unit}`).join(", ");
  return html`<figure class="chart"><figcaption><b>${title}</b> ${now}</figcaption>
<div class="plot"><span class="top">${figure(top)}${unit}</span><span class="low">${figure(low)}${unit}</span>
<svg viewBox="0 -4 ${width} ${height + 8}" preserveAspectRatio="none" role="img" aria-label="${title}, ${ends[0]} to ${ends[1]}: now ${text}; from ${figure(low)}${unit} to ${figure(top)}${unit}">
${drawn.map(({ points, tone }) => html`<path class="curve ${tone}" d="${pathOf(points, low, high)}"/>`)}</svg></div>
<div class="ends"><span>${ends[0]}</span><span>${ends[1]}</span></div></figure>`;
}

/** In percent, with a mark. */
export function bar(percent: number | undefined, scale: number, mark: number | undefined): Html {
  const share = (value: number): string => Math.min(100, Math.max(0, (100 * value) / scale)).toFixed(1);
  const at = mark === undefined ? undefined : html`<line class="mark" x1="${share(mark)}" x2="${share(mark)}" y1="0" y2="10"/>`;
  const over = percent !== undefined && mark !== undefined && percent > mark + 10 ? " over" : "";
  return html`<svg class="bar${over}" viewBox="0 0 100 10" preserveAspectRatio="none" aria-hidden="true"><rect class="all" width="100" height="10"/><rect class="part" width="${share(percent ?? 0)}" height="10"/>${at}</svg>`;
}
