// `green` of a deployment's status: the owned deployment that serves a new model during the change.
import { z } from "zod";

const nameMax = 63;
const phases = ["Starting", "Baking", "Returning", "Baked", "Serving", "Leaving"] as const;

export const greenSchema = z
  .object({
    name: z.string().max(nameMax).meta({ description: "Name of the owned MoEDeployment, in the same namespace." }),
    phase: z.enum(phases).meta({
      description:
        "Starting while the ranks before serve, Baking while it has a share of the requests as a canary, Returning when it does not serve any more meanwhile, Baked when it has passed and gets what it lacks of the deployment's gateways and ranks, Serving while the Service leads to it alone, Leaving when it is not needed any more.",
    }),
    since: z.iso.datetime().meta({ description: "When that began." }),
  })
  .meta({ description: "The deployment that serves another model or codec while the ranks change to it." });
export type GreenStatus = z.infer<typeof greenSchema>;
