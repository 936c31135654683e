// `enodia chat`: talk to a deployment through its OpenAI API, once (a prompt as argument or on stdin) or in turns.
// Ctrl-C cancels the answer that is coming; at the prompt it leaves. Not here: the protocol (../chat-client.ts).
import { readFile } from "node:fs/promises";
import { createInterface } from "node:readline";
import type { Readable, Writable } from "node:stream";
import { text as readAll } from "node:stream/consumers";
import { parseArgs } from "node:util";
import { AppError } from "../../../crds/common.ts";
import { type ChatOptions, type ChatRequest, type ChatTurn, firstModel, streamChat } from "../chat-client.ts";

const help = `usage: enodia chat [options] [prompt...]

Asks a gateway, or any server of the same API, and prints the answer as it comes. Without a prompt: in turns (/reset forgets the
conversation, /exit or Ctrl-D leaves), or once with what is piped in. Ctrl-C ends an answer. A refused connection is tried again
for 5 s, so that it may follow "kubectl port-forward ... &" at once. What a model thinks before it answers goes to stderr.

  --url URL              gateway (default http://127.0.0.1:8000, as after
                         kubectl port-forward -n NAMESPACE service/NAME 8000:8000)
  --model NAME           default: the first model that the gateway lists
  --system TEXT          system message
  --temperature NUMBER   0 = always the likeliest token (default 1)
  --top-p NUMBER         only the likeliest tokens that together have this probability (default 1)
  --seed NUMBER          same seed, same text (default: another one each time)
  --max-tokens NUMBER    length of the answer at most (default: what the context leaves)
  --effort WORD          how much a model thinks that can be told: none, minimal, low, medium, high or xhigh
  --api-key KEY          for gateways that want one; or --api-key-file FILE (its first line)`;

const text = { type: "string" } as const;
const flags = {
  url: text,
  model: text,
  system: text,
  temperature: text,
  "top-p": text,
  seed: text,
  "max-tokens": text,
  effort: text,
  "api-key": text,
  "api-key-file": text,
  help: { type: "boolean", short: "h" },
} as const;

export { flags as options };

/** The exit code that shells report of a program that Ctrl-C ended. */
const interrupted = 130;

export interface Terminal {
  readonly input: Readable & { readonly isTTY?: boolean };
  readonly output: Writable & { readonly isTTY?: boolean };
  readonly errors: Writable;
  /** Calls back on Ctrl-C while an answer is coming; returns how to stop listening. */
  onInterrupt(callback: () => void): () => void;
}

const processTerminal: Terminal = {
  input: process.stdin,
  output: process.stdout,
  errors: process.stderr,
  onInterrupt: (callback) => {
    process.on("SIGINT", callback);
    return () => process.off("SIGINT", callback);
  },
};

interface Session {
  readonly options: ChatOptions;
  readonly settings: Omit<ChatRequest, "messages">;
  readonly system: readonly ChatTurn[];
}

export async function run(args: readonly string[], terminal: Terminal = processTerminal): Promise<number> {
  const parsed = parse(args);
  if (parsed.help) {
    terminal.output.write(`${help}\n`);
    return 0;
  }
  const onRefused = (message: string) => terminal.errors.write(`enodia: ${message}\n`);
  const options: ChatOptions = { url: parsed.url, apiKey: await apiKeyOf(parsed), onRefused };
  const model = parsed.model ?? (await firstModel(options, new AbortController().signal));
  const { temperature, top_p, seed, max_tokens, reasoning_effort } = parsed;
  const system: ChatTurn[] = parsed.system === undefined ? [] : [{ role: "system", content: parsed.system }];
  const session: Session = { options, settings: { model, temperature, top_p, seed, max_tokens, reasoning_effort }, system };
  const prompt = parsed.prompt || (terminal.input.isTTY ? "" : await readAll(terminal.input));
  if (prompt.trim() !== "") return once(session, prompt, terminal);
  if (!terminal.input.isTTY) throw new AppError("Nothing was piped in: give a prompt as argument or on stdin.", { code: "NoPrompt" });
  return converse(session, terminal);
}

async function once(session: Session, prompt: string, terminal: Terminal): Promise<number> {
  const answer = await say(session, [...session.system, { role: "user", content: prompt }], terminal);
  if (answer.cancelled) return interrupted;
  return 0;
}

/** Turns until the input ends. Errors are shown and the conversation goes on without the failed turn. */
export async function converse(session: Session, terminal: Terminal): Promise<number> {
  const lines = createInterface({ input: terminal.input, output: terminal.output, prompt: "> ", terminal: terminal.output.isTTY === true });
  lines.on("SIGINT", () => lines.close()); // in a terminal, readline gets Ctrl-C, not the process
  let history: readonly ChatTurn[] = session.system;
  terminal.output.write(`${session.settings.model} at ${session.options.url}\n`);
  lines.prompt();
  for await (const line of lines) {
    const content = line.trim();
    if (content === "/exit") break;
    if (content === "/reset") history = session.system;
    else if (content !== "") history = await turn(session, history, content, { terminal, lines });
    lines.prompt();
  }
  lines.close();
  terminal.output.write("\n");
  return 0;
}

async function turn(
  session: Session,
  history: readonly ChatTurn[],
  content: string,
  { terminal, lines }: { readonly terminal: Terminal; readonly lines: ReturnType<typeof createInterface> },
): Promise<readonly ChatTurn[]> {
  const asked: readonly ChatTurn[] = [...history, { role: "user", content }];
  const cancelling = new AbortController();
  const cancel = () => cancelling.abort();
  lines.removeAllListeners("SIGINT");
  lines.on("SIGINT", cancel);
  try {
    const { text } = await say(session, asked, terminal, cancelling);
    return text === "" ? history : [...asked, { role: "assistant", content: text }];
  } catch (caught) {
    terminal.errors.write(`enodia: ${AppError.from(caught).message}\n`);
    return history;
  } finally {
    lines.removeAllListeners("SIGINT");
    lines.on("SIGINT", () => lines.close());
  }
}

/** Prints one answer as it comes; Ctrl-C stops it and keeps what was said. */
async function say(
  session: Session,
  messages: readonly ChatTurn[],
  terminal: Terminal,
  cancelling = new AbortController(),
): Promise<{ text: string; cancelled: boolean }> {
  const stop = terminal.onInterrupt(() => cancelling.abort());
  let text = "";
  let thinks = false;
  try {
    for await (const event of streamChat(session.options, { ...session.settings, messages }, cancelling.signal)) {
      if (event.type === "thought") {
        thinks = true;
        terminal.errors.write(event.text);
      } else if (event.type === "text") {
        if (thinks) terminal.errors.write("\n\n");
        thinks = false;
        text += event.text;
        terminal.output.write(event.text);
      } else if (event.reason === "length") terminal.errors.write("\n[cut off: the limit of tokens is reached]");
    }
    terminal.output.write("\n");
    return { text, cancelled: false };
  } catch (caught) {
    if (text !== "") terminal.output.write("\n");
    if (!cancelling.signal.aborted) throw caught;
    terminal.errors.write("[cancelled]\n");
    return { text, cancelled: true };
  } finally {
    stop();
  }
}

function parse(args: readonly string[]) {
  try {
    const { values, positionals } = parseArgs({ args: [...args], options: flags, allowPositionals: true });
    return {
      help: values.help === true,
      url: urlOf(values.url ?? "http://127.0.0.1:8000"),
      model: values.model,
      system: values.system,
      temperature: numberOf("--temperature", values.temperature),
      top_p: numberOf("--top-p", values["top-p"]),
      seed: numberOf("--seed", values.seed),
      max_tokens: numberOf("--max-tokens", values["max-tokens"]),
      reasoning_effort: values.effort,
      apiKey: values["api-key"],
      apiKeyFile: values["api-key-file"],
      prompt: positionals.join(" "),
    };
  } catch (caught) {
    throw new AppError(`${AppError.from(caught).message}\n\n${help}`, { code: "Usage", cause: caught });
  }
}

function urlOf(text: string): string {
  if (!URL.canParse(text) || !/^https?:/.test(text))
    throw new AppError(`--url ${text}: must begin with http:// or https://`, { code: "Usage" });
  return text;
}

function numberOf(option: string, text: string | undefined): number | undefined {
  if (text === undefined) return undefined;
  const value = Number(text);
  if (text.trim() === "" || !Number.isFinite(value)) throw new AppError(`${option} ${text}: must be a number`, { code: "Usage" });
  return value;
}

async function apiKeyOf(parsed: { apiKey: string | undefined; apiKeyFile: string | undefined }): Promise<string | undefined> {
  if (parsed.apiKeyFile === undefined) return parsed.apiKey;
  try {
    return (await readFile(parsed.apiKeyFile, "utf8")).split("\n")[0]?.trim();
  } catch (cause) {
    throw new AppError(`--api-key-file ${parsed.apiKeyFile}: cannot be read`, { code: "Usage", cause });
  }
}
