// A text model for gateway tests: one token per UTF-8 byte (0..255), 299 ends the text. Same interface as the real one.
import { AppError } from "../../../crds/common.ts";
import type { TextModel } from "../../../runtime/text/text-model.ts";
import { eosId, vocab } from "./scripted-worker.ts";

const encode = (text: string) => Uint32Array.from(new TextEncoder().encode(text));

export const byteText: TextModel = {
  vocab,
  eosIds: [eosId],
  charsPerTokenMax: 1,
  encode: async (text) => encode(text),
  encodeChat: async (messages) => {
    if (messages[0]?.role === "assistant") throw new AppError("messages: must begin with a user", { code: "InvalidRequest" });
    return encode(messages.map(({ role, content }) => `<${role}>${content}`).join(""));
  },
  decoder: () => {
    const decoder = new TextDecoder();
    return {
      push: (id) => (id < 256 ? decoder.decode(Uint8Array.of(id), { stream: true }) : ""),
      flush: () => decoder.decode(),
    };
  },
  piece: (id) => Uint8Array.of(id),
};
