import assert from "node:assert/strict";
import { test } from "node:test";
import { deployment, pod } from "../../../test/kit/deployment/deployment.ts";
import { type ImageSources, pinnedImage } from "./runtime-image.ts";

const spec = (runtimeImage: object = {}) => deployment({ runtimeImage }).spec;
const bare: ImageSources = { spec: spec(), status: {}, accepted: undefined, pods: [], offered: "new", own: undefined };
const seen = { status: { runtimeImage: { image: "told" } }, pods: [pod(0, { image: "runs" })] };

const cases: Readonly<Record<string, [Partial<ImageSources>, string]>> = {
  "a deployment that never ran takes what there is": [{}, "new"],
  "what was accepted stays": [{ ...seen, accepted: "before" }, "before"],
  "without it the status knows": [seen, "told"],
  "and without that the newest pod": [
    { pods: [pod(0, { image: "older", createdMs: 1 }), pod(1, { image: "newer", createdMs: 2 }), pod(2, { image: "" })] },
    "newer",
  ],
  "the owner's word counts first": [{ ...seen, accepted: "before", spec: spec({ image: "asked" }) }, "asked"],
  "Auto follows the operator": [{ ...seen, accepted: "before", spec: spec({ rollout: "Auto" }) }, "new"],
  "an image of the owner's own is no pin": [{ ...seen, own: "runs" }, "new"],
};
for (const [sentence, [sources, want]] of Object.entries(cases))
  test(`the pinned image: ${sentence}`, () => assert.equal(pinnedImage({ ...bare, ...sources }), want));
