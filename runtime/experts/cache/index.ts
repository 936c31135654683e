// The registry of evictions: a new one is a file, a line here, and its name in crds/names.ts.
import type { EvictionName } from "../../../crds/names.ts";
import { belady } from "./belady.ts";
import type { EvictionKind } from "./eviction.ts";
import { lfu } from "./lfu.ts";
import { lru } from "./lru.ts";
import { nextUse } from "./next-use.ts";

export const evictions: Readonly<Record<EvictionName, EvictionKind>> = { lru, lfu, "next-use": nextUse, belady };
