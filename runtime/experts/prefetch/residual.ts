// residual: the next layers' routers, asked with rows moved on by their last change (M2R2's accelerated residual, without its adapters).
import { routersAhead } from "./routers-ahead.ts";

export const residual = routersAhead("accelerated", "the later layer's router, asked with rows moved on by their last change");
