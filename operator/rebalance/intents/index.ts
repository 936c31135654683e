// The intents of a deployment in order of priority: the first that is wanted acts. A new kind of plan is a file and a line here.
import { Balance } from "./balance.ts";
import { drain } from "./drain.ts";
import { fill } from "./fill.ts";
import { first } from "./first.ts";
import type { Intent } from "./intent.ts";
import { Protect } from "./protect.ts";
import { Recover } from "./recover.ts";
import { repair } from "./repair.ts";

/** New objects for each deployment, since some have state. */
export function intents(): readonly Intent[] {
  return [
    new Recover(),
    first,
    repair, // Experts without a live replica are slow or refused.
    drain, // A leaving rank blocks whoever shrinks or replaces it.
    fill,
    new Protect(),
    new Balance(), // It only gains speed, and waits for a window of load.
  ];
}
