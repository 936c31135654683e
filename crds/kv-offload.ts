// spec.runtime.kvOffload: where keys and values of texts go that leave a rank's attention cache. Pure.
import { z } from "zod";
import { parseQuantity, quantity } from "./quantity.ts";

export const kvOffload = z
  .object({
    memory: quantity(
      "Bytes of the machine's memory. The container's memory limit has to hold them beside experts, kvPool and the dense part; also on a GPU.",
    ),
    disk: quantity(
      "Bytes of the node's disk behind that, an emptyDir in which a restarted container finds them. The pod requests as much ephemeral storage, unless podTemplate limits that.",
    ).optional(),
  })
  .meta({
    description:
      "Keeps keys and values that the attention cache gives up, in blocks of 64 tokens, so that a request that was preempted, a prompt that begins as an earlier one, or another rank finds them instead of computing them again. Texts stay the same. When not given: none are kept.",
  })
  .optional();

/** 0 = none. */
export const offloadBytes = ({ kvOffload: kept }: { readonly kvOffload?: z.output<typeof kvOffload> }): number =>
  kept === undefined ? 0 : parseQuantity(kept.memory, "spec.runtime.kvOffload.memory");
