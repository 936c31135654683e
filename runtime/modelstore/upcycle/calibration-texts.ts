// Texts of several topics as token sequences, on which routers are fitted and experts judged.
import { readdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import { AppError } from "../../../crds/common.ts";
import type { ModelTokenizer } from "../../text/tokenizer.ts";

const separator = "\n---\n";
/** Longer texts are cut: a sequence is one prefill. */
export const sequenceTokensMax = 512;

interface Sequence {
  readonly topic: string;
  readonly ids: readonly number[];
}

async function readTopics(): Promise<readonly { readonly topic: string; readonly texts: readonly string[] }[]> {
  const dir = join(import.meta.dirname, "topics");
  const names = (await readdir(dir)).filter((name) => name.endsWith(".txt")).sort();
  if (names.length === 0) throw new AppError(`${dir}: holds no topic texts; the installation is incomplete`, { code: "Internal" });
  return Promise.all(
    names.map(async (name) => ({
      topic: name.slice(0, -4),
      texts: (await readFile(join(dir, name), "utf8")).split(separator).map((text) => text.trim()),
    })),
  );
}

/** Chats only when the model has a template; served traffic is mostly chat. */
export async function calibrationSequences(tokenizer: ModelTokenizer): Promise<readonly Sequence[]> {
  const sequences: Sequence[] = [];
  for (const { topic, texts } of await readTopics()) {
    for (const text of texts) {
      sequences.push({ topic, ids: tokenizer.encode(text).slice(0, sequenceTokensMax) });
      const chat = chatIds(tokenizer, text);
      if (chat) sequences.push({ topic, ids: chat.slice(0, sequenceTokensMax) });
    }
  }
  return sequences.filter(({ ids }) => ids.length > 0);
}

function chatIds(tokenizer: ModelTokenizer, text: string): readonly number[] | undefined {
  try {
    return tokenizer.encodeChat([{ role: "user", content: text }]);
  } catch (caught) {
    if (caught instanceof AppError && caught.code === "InvalidRequest") return undefined; // no template
    throw caught;
  }
}
