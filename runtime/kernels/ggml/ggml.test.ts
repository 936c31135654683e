// The ggml types against what ggml's own description of them gives (test/golden/ggml-blocks.json), bit for bit.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { asF32, copyF32, valuesIn } from "../weights.ts";
import { boundedByScales, dequantizeGgml, type GgmlForm, ggmlBytes, ggmlFormats } from "./index.ts";

const golden = JSON.parse(readFileSync(join(import.meta.dirname, "../../../test/golden/ggml-blocks.json"), "utf8"));
assert.equal(golden.magic, "enodia-golden");
assert.equal(golden.version, 1, `remake: ${golden.remake}`);
const forms = Object.keys(ggmlFormats) as GgmlForm[];

test("every type has a golden", () => {
  assert.deepEqual(Object.keys(golden.forms).toSorted(), forms.toSorted());
});

for (const form of forms) {
  test(`${form} has ggml's number and sizes, and its blocks mean what ggml says, bit for bit`, () => {
    const { type, values, bytes } = ggmlFormats[form];
    const { blocks, floats, ...sizes } = golden.forms[form];
    assert.deepEqual({ type, values, bytes }, sizes);
    const want = new Uint32Array(new Uint8Array(Buffer.from(floats, "base64")).buffer);
    const data = new Uint8Array(Buffer.from(blocks, "base64"));
    assert.deepEqual(new Uint32Array(dequantizeGgml(form, data).buffer), want);
    assert.equal(ggmlBytes(form, want.length), data.length);
  });
}

test("a matrix of blocks says how many values it holds, and gives them in an array of the caller's own", () => {
  const data = new Uint8Array(Buffer.from(golden.forms.q6_K.blocks, "base64"));
  const weight = { form: "q6_K" as const, shape: [3, 256], data };
  assert.equal(valuesIn(weight), 768);
  assert.deepEqual(asF32(weight), dequantizeGgml("q6_K", data));
  assert.notEqual(copyF32(weight).buffer, copyF32(weight).buffer);
});

for (const form of forms) {
  const { bytes, scales } = ggmlFormats[form];
  const block = (rest: number, word: number) => {
    const data = new Uint8Array(bytes).fill(rest);
    for (const at of scales.at) new DataView(data.buffer).setUint16(at, (word & scales.mask) | ((rest * 257) & ~scales.mask), true);
    return data;
  };
  test(`scales of ${form} within their bound leave no value above a million, whatever the other bits are; beyond they are looked at`, () => {
    for (let rest = 0; rest < 256; rest++) {
      for (const word of [scales.most, scales.most | 0x8000, 0]) {
        const data = block(rest, word);
        assert.ok(boundedByScales(form, data));
        assert.ok(dequantizeGgml(form, data).every((value) => Math.abs(value) <= 1e6));
      }
      for (const at of scales.at) {
        const data = block(rest, 0);
        new DataView(data.buffer).setUint16(at, scales.mask, true);
        assert.ok(!boundedByScales(form, data));
      }
    }
    assert.ok(boundedByScales(form, new Uint8Array(Buffer.from(golden.forms[form].blocks, "base64"))), "blocks as models have them");
  });
}
