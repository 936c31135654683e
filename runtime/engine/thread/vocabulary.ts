// Loads token texts for constraints in a thread of their own.
import { Worker } from "node:worker_threads";
import { AppError } from "../../../crds/common.ts";
import { type TextOrder, type TokenTexts, Vocabulary } from "../../constraints/vocabulary.ts";

const loadMs = 10_000;

/** Throws AppError for an unreadable tokenizer. */
export function loadVocabulary(dir: string): Promise<Vocabulary> {
  const worker = new Worker(new URL("./vocabulary-thread.ts", import.meta.url), { workerData: { dir }, name: "vocabulary" });
  return new Promise<Vocabulary>((resolve, reject) => {
    const refuse = (why: string) => reject(new AppError(`${dir}: ${why}`, { code: "BadTokenizer" }));
    const late = setTimeout(() => {
      refuse(`the tokenizer was not read within ${loadMs / 1000} s`);
      void worker.terminate();
    }, loadMs);
    worker.on("message", ({ texts, order }: { texts: TokenTexts; order: TextOrder }) => resolve(new Vocabulary(texts, order)));
    worker.on("error", (cause) => refuse(cause instanceof Error ? cause.message : String(cause)));
    worker.on("exit", () => {
      clearTimeout(late);
      refuse("its thread ended");
    });
  });
}
