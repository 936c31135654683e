// `elasticity.autoscale.scaleToZero`: scaling to zero ranks, and back with the first request.
import { z } from "zod";
import { rules } from "./openapi.ts";
import { duration } from "./quantity.ts";

/** A gateway's request timeout bounds the wait for the first rank. */
const holdTimeoutMax = "10m";

export const scaleToZero = z
  .object({
    idleAfter: duration("How long no gateway may have had a request, and no rank one to compute, before all ranks go.", {
      value: "1s",
      why: "ranks that go with every request serve nobody",
    }).default("10m"),
    holdTimeout: duration(
      "How long a gateway lets a request wait for the first rank to come back; then it answers 503. Clients must be as patient.",
      { value: "1s", why: "no rank is there at once" },
    ).default("5m"),
  })
  .optional()
  .meta({
    description:
      "When given, replicas become 0 when nobody asks, and the least ranks again with the first request, which the gateways hold meanwhile. What is not known is not idle: it needs to hear every gateway and every rank that serves.",
    ...rules({
      rule: `!has(self.holdTimeout) || duration(self.holdTimeout) <= duration('${holdTimeoutMax}')`,
      message: `holdTimeout must be at most ${holdTimeoutMax}: a gateway ends every request after that`,
      fieldPath: ".holdTimeout",
    }),
  });
