// next-gate: the next layers' routers, asked with this layer's rows (Pre-gated MoE's idea, with an unchanged model).
import { routersAhead } from "./routers-ahead.ts";

export const nextGate = routersAhead("same", "the later layer's router, asked with the rows of this one");
