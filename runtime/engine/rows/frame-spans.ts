// Spans of traced frames: the engine thread names them, the main thread exports them.
import { randomBytes } from "node:crypto";
import type { FrameSpan } from "../api.ts";

const spanIdAt = 36;
const spanIdChars = 16;

type SpanFacts = Pick<FrameSpan, "name" | "role" | "attributes">;

/** `parent`: a W3C traceparent. */
export function beginSpan(parent: string, facts: SpanFacts) {
  const id = randomBytes(spanIdChars / 2).toString("hex");
  const traceparent = `${parent.slice(0, spanIdAt)}${id}${parent.slice(spanIdAt + spanIdChars)}`;
  const startUnixMs = performance.timeOrigin + performance.now();
  const end = (more: FrameSpan["attributes"], failure?: string): FrameSpan => {
    const endUnixMs = performance.timeOrigin + performance.now();
    return { ...facts, parent, traceparent, startUnixMs, endUnixMs, attributes: { ...facts.attributes, ...more }, failure };
  };
  return { traceparent, end };
}
