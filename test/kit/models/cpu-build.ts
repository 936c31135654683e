// The build of ggml's CPU library for tests of memory that has no tiles: on processors with AMX matrices of blocks lie in tiles, whose
// slots rows cannot choose among.
import { readFileSync } from "node:fs";

const hasTiles = process.arch === "x64" && readFileSync("/proc/cpuinfo", "utf8").includes("amx_int8");

/** Undefined where the best build for this processor has no tiles. */
export const buildWithoutTiles = hasTiles ? "icelake" : undefined;
