// A command of the CLI as the registry has it, and its module as it is loaded. Types only.
import type { ParseArgsOptionsConfig } from "node:util";

/** Kinds of objects whose names a command may take, as the resources of operator/kube/kube.ts are called. */
export type NamedKind = "moeDeployments" | "moeTrainingJobs";

/** What stands before the names of each kind. */
export type Names = Readonly<Partial<Record<NamedKind, string>>>;

interface Runs {
  /** The exit code. */
  run(args: readonly string[]): Promise<number>;
}

/** A command that parses its own line. */
interface Leaf extends Runs {
  readonly options: ParseArgsOptionsConfig;
  /** Words that may come first, where the command has several verbs. */
  readonly verbs?: readonly string[];
  /** Verbs with options of their own. */
  readonly subcommands?: Commands;
}

/** A command that hands over to another by the next word. */
interface Branch extends Runs {
  readonly subcommands: Commands;
}

export type CommandModule = Leaf | Branch;

export interface Command {
  readonly summary: string;
  /** The kinds of the objects that it takes by name. */
  readonly names?: Names;
  load(): Promise<CommandModule>;
}

export type Commands = Readonly<Record<string, Command>>;
