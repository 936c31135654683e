// The last words of a process that fails: the last line of its log, and the pod's termination message. Both sides parse untrusted input.
import { z } from "zod";

/** The kubelet reads it. */
export const endFile = "/dev/termination-log";
/** Fits the kubelet's limit of 4,096 bytes beside code and level. */
const messageMax = 1500;

const processEndSchema = z.object({ level: z.literal("fatal"), code: z.string().min(1).max(64), message: z.string().max(4096) });
export type ProcessEnd = Omit<z.infer<typeof processEndSchema>, "level">;

/** Codes with which processes end however often they are started: those that the spec is at fault for, and those of the model. */
export const endsOfSpec: readonly string[] = ["CodecNotFound", "InsufficientMemory", "InvalidConfig", "KvPoolTooSmall", "UnsupportedShape"];
export const endsOfModel: readonly string[] = ["BadModelConfig", "BadModelIndex", "CorruptShard", "ModelNotFound", "UnknownArchitecture"];

export const processEndText = ({ code, message }: ProcessEnd): string =>
  JSON.stringify({ level: "fatal", code, message: message.slice(0, messageMax) });

/** Undefined where the text does not end with such a line. */
export function readProcessEnd(text: string): ProcessEnd | undefined {
  try {
    const { code, message } = processEndSchema.parse(JSON.parse(text.trim().split("\n").at(-1) ?? ""));
    return { code, message };
  } catch {
    return undefined;
  }
}
