// True for out-of-memory errors of machine or GPU, after which callers may try with less.
import { AppError } from "../../../crds/common.ts";

const codes: ReadonlySet<string> = new Set(["OutOfMemory", "OutOfDeviceMemory"]);

export const isOutOfMemory = (caught: unknown): boolean => codes.has(AppError.from(caught).code);
export const isUnsupported = (caught: unknown): boolean => AppError.from(caught).code === "UnsupportedOp";
