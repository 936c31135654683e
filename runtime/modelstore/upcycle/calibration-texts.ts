// Texts of several topics as token sequences, on which routers are fitted and experts judged.
import { readdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import { AppError } from "../../../crds/common.ts";
import type { ModelTokenizer } from "../../text/tokenizer.ts";

const separator = "\n---\n";
/** Longer texts are cut: a sequence is one prefill. */
export const sequenceTokensMax = 512;

async function readTexts(): Promise<readonly string[]> {
  const dir = join(import.meta.dirname, "topics");
  const names = (await readdir(dir)).filter((name) => name.endsWith(".txt")).sort();
  if (names.length === 0) throw new AppError(`${dir}: holds no topic texts; the installation is incomplete`, { code: "Internal" });
  const files = await Promise.all(names.map((name) => readFile(join(dir, name), "utf8")));
  return files.flatMap((file) => file.split(separator).map((text) => text.trim()));
}

/** Chats only when the model has a template; served traffic is mostly chat. */
export async function calibrationSequences(tokenizer: ModelTokenizer): Promise<readonly (readonly number[])[]> {
  const sequences: (readonly number[])[] = [];
  for (const text of await readTexts()) {
    sequences.push(tokenizer.encode(text).slice(0, sequenceTokensMax));
    const chat = chatIds(tokenizer, text);
    if (chat) sequences.push(chat.slice(0, sequenceTokensMax));
  }
  return sequences.filter((ids) => ids.length > 0);
}

function chatIds(tokenizer: ModelTokenizer, text: string): readonly number[] | undefined {
  try {
    return tokenizer.encodeChat([{ role: "user", content: text }]);
  } catch (caught) {
    if (caught instanceof AppError && caught.code === "InvalidRequest") return undefined; // no template
    throw caught;
  }
}
