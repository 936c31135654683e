// True for the errors of memory that is not to be had, of the machine's or of a GPU's own: who can do with less asks.
import { AppError } from "../../../crds/common.ts";

const codes: ReadonlySet<string> = new Set(["OutOfMemory", "OutOfDeviceMemory"]);

export const isOutOfMemory = (caught: unknown): boolean => codes.has(AppError.from(caught).code);
