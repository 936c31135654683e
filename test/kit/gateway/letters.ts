// The text model of tests that compare what ranks computed.
import type { TextModel } from "../../../runtime/text/text-model.ts";

/** Every token shows as one letter, so that texts compare. */
export const letters: TextModel = {
  vocab: 256,
  eosIds: [],
  charsPerTokenMax: 1,
  encode: async (text) => Uint32Array.from(text, (letter) => letter.charCodeAt(0) % 256),
  encodeChat: async (messages) => letters.encode(messages.map(({ content }) => content).join("")),
  decoder: () => ({ push: (id) => String.fromCharCode(0x4e00 + id), flush: () => "" }),
  piece: (id) => new TextEncoder().encode(String.fromCharCode(0x4e00 + id)),
};
