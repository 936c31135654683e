// The demos that there are, by the word that names them on the command line; the first is shown when none is named.
import { serving } from "./serving/steps.ts";
import type { Show } from "./show.ts";
import { training } from "./training/steps.ts";

/** To add one: one line. Each show's steps are given the demo that they themselves have filled in. */
export const shows: Readonly<Record<string, Show>> = { serving, training };
