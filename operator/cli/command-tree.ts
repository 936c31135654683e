// Builds commander's tree from declarations. DECISIONS.md 1 and 2.
import { Argument, Command, CommanderError, InvalidArgumentError, Option } from "commander";
import { AppError } from "../../crds/common.ts";
import packageJson from "../../package.json" with { type: "json" };
import type { Declaration, Entries, Entry, Names, Option as OptionDeclaration } from "./command.ts";
import { columnsOf } from "./environment.ts";

/** Exit code of an invalid line. */
export const misuse = 2;

interface Found {
  readonly command: Command;
  readonly declaration: Declaration | undefined;
  readonly rest: readonly string[];
}

interface Tree extends Found {
  readonly root: Command;
  /** The action's exit code once it ran. */
  readonly code: () => number;
}

async function grow(root: Entry, line: readonly string[]): Promise<Tree> {
  let code = 0;
  const bare = new Command("enodia")
    .version(packageJson.version, "--version", "which version this is")
    .exitOverride()
    .enablePositionalOptions()
    .configureOutput({ outputError: () => {}, getOutHelpWidth: () => columnsOf() ?? 80 })
    .helpOption("-h, --help", "this help")
    .helpCommand(false);
  const done = (result: number): void => {
    code = result;
  };
  return { root: bare, code: () => code, ...(await fill(bare, root, line, done)) };
}

async function fill(parent: Command, entry: Entry, line: readonly string[], done: (code: number) => void): Promise<Found> {
  const { commands = {}, notes } = entry;
  for (const [name, { summary }] of Object.entries(commands))
    parent.command(name).summary(summary).enablePositionalOptions().helpCommand(false);
  const [name = "", ...rest] = line;
  const child = Object.hasOwn(commands, name) ? commands[name] : undefined;
  const grown = parent.commands.find((one) => one.name() === name);
  if (child && grown) return fill(grown, child, rest, done);
  const declaration = await entry.load?.();
  if (declaration) declare(parent, declaration, done);
  if (notes !== undefined) parent.addHelpText("after", `\n${notes}`);
  return { command: parent, declaration, rest: line };
}

function declare(to: Command, declaration: Declaration, done: (code: number) => void): void {
  to.description(declaration.about).passThroughOptions(declaration.passThrough === true);
  const entries = Object.entries(declaration.options);
  for (const { form, about } of declaration.arguments ?? []) to.addArgument(new Argument(form, about));
  for (const [key, option] of entries) to.addOption(optionOf(key, option));
  if (declaration.notes !== undefined) to.addHelpText("after", `\n${declaration.notes}`);
  to.action(async (...received: unknown[]) => {
    const values = received[to.registeredArguments.length] as Record<string, unknown>;
    const all = Object.fromEntries(entries.map(([key, { fallback }]) => [key, values[key] ?? fallback]));
    const args = received.slice(0, to.registeredArguments.length) as never[];
    done(await declaration.action(all, ...args));
  });
}

/** The table's keys name the values, also for "--no-plot". */
// biome-ignore lint/suspicious/noExplicitAny: of any type
function optionOf(key: string, { flags, about, fallback, choices, parse, hidden = false }: OptionDeclaration<any>): Option {
  const option = new Option(flags, about).hideHelp(hidden);
  option.negate = false;
  option.attributeName = () => key;
  if (typeof fallback === "number" || (typeof fallback === "string" && fallback !== "")) option.default(fallback);
  if (choices) option.choices([...choices]);
  if (parse) option.argParser((text: string, before: unknown) => parsed(() => parse(text, before ?? fallback)));
  return option;
}

function parsed<T>(parse: () => T): T {
  try {
    return parse();
  } catch (caught) {
    throw new InvalidArgumentError(AppError.from(caught).message);
  }
}

/** "enodia help plan record" is "enodia plan record --help". */
function withoutHelpCommand(line: readonly string[], entries: Entries): readonly string[] {
  const [name = "", ...rest] = line;
  if (name === "help") return [...rest, "--help"];
  const commands = Object.hasOwn(entries, name) ? entries[name]?.commands : undefined;
  return commands ? [name, ...withoutHelpCommand(rest, commands)] : line;
}

/** Returns the exit code. Throws AppError `Usage` with a remedy for an invalid line. */
export async function execute(root: Entry, typed: readonly string[]): Promise<number> {
  const line = withoutHelpCommand(typed, root.commands ?? {});
  const tree = await grow(root, line);
  try {
    await tree.root.parseAsync(line, { from: "user" });
    return tree.code();
  } catch (caught) {
    if (!(caught instanceof CommanderError)) throw caught;
    if (caught.exitCode === 0) return 0;
    if (caught.code === "commander.help") return misuse;
    throw usageError(caught, tree.command);
  }
}

function usageError(error: CommanderError, command: Command): AppError {
  const what = error.message
    .replace(/^error: /, "")
    .replace(/\.$/, "")
    .replace(/\n\(Did (.*)\)$/, "; did $1");
  return new AppError(`${what}; see: ${pathOf(command)} --help`, { code: "Usage", cause: error });
}

const pathOf = (command: Command): string => (command.parent ? `${pathOf(command.parent)} ${command.name()}` : command.name());

export interface Candidates {
  readonly candidates: readonly string[];
  /** Kinds whose object names are candidates too. */
  readonly names?: Names;
}

/** Candidates for the last, partial word of `line`. */
export async function candidates(root: Entry, line: readonly string[]): Promise<Candidates> {
  const { command, declaration, rest } = await grow(root, line.slice(0, -1));
  const current = line.at(-1) ?? "";
  const options = command.createHelp().visibleOptions(command);
  const open = options.find(({ short, long }) => [short, long].includes(rest.at(-1) ?? ""));
  if (open?.required) return { candidates: open.argChoices ?? [] };
  if (current.startsWith("-")) return { candidates: options.flatMap(({ long }) => long ?? []) };
  const begun = rest.some((word) => !word.startsWith("-"));
  const found = begun ? [] : command.commands.map((one) => one.name());
  const names = declaration?.arguments?.find((one) => one.names)?.names;
  return names === undefined ? { candidates: found } : { candidates: found, names };
}
