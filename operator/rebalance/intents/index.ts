// The intents of a deployment, in the order in which they are tried: the first that is wanted acts, the others wait for another tick.
// A new kind of plan is a file beside these and a line here. controller.ts hands the list to each loop.
import { Balance } from "./balance.ts";
import { drain } from "./drain.ts";
import { fill } from "./fill.ts";
import { first } from "./first.ts";
import type { Intent } from "./intent.ts";
import { Protect } from "./protect.ts";
import { Recover } from "./recover.ts";
import { repair } from "./repair.ts";

/** The intents of one deployment, made anew for each, since some remember what they found. */
export function intents(): readonly Intent[] {
  return [
    new Recover(), // nothing is planned on top of a plan that nobody has read
    first, // without any placement there is nothing to repair, fill or balance
    repair, // experts without a live expert replica are slow or refused until they have a primary
    drain, // a rank that is to go holds up whoever shrinks or replaces it
    fill, // a new rank without experts does nothing for its memory
    new Protect(), // expert replicas against the next loss come before speed
    new Balance(), // only gains speed, and waits for a window of load
  ];
}
