// fedspeed (arXiv 2302.10429): each step is pulled to the parameters of the last meeting (lambda), corrected by earlier pulls, and
// takes its gradient a little uphill (rho).
import { mul, sub } from "../optimizers/wasm.ts";
import { localStepsMax, refusesMeeting } from "./fedavg.ts";
import { aboveZero, type Recipe, whole } from "./recipe.ts";

const round = Math.fround;

type Own = Readonly<Record<"p" | "anchor" | "pull", Float32Array>>;

export const fedspeed: Recipe = {
  option: "local",
  numbers: {
    steps: whole(1, localStepsMax),
    lambda: aboveZero(100),
    rho: { allows: (value) => value >= 0 && value <= 1, must: "from 0 to 1" },
  },
  refuses: refusesMeeting,
  correction: {
    /** The parameters of the last meeting, and the sum of pulls: the paper's prox-corrected gradient. */
    state: ["anchor", "pull"],
    numbers: ["lambda"],
    plain(arrays, i, { lambda = 0 }) {
      const { p, anchor, pull } = arrays as Own;
      return round(round(lambda * round((p[i] as number) - (anchor[i] as number))) - (pull[i] as number));
    },
    code: ({ number, array }) => sub(mul(number("lambda"), sub(array("p"), array("anchor"))), array("pull")),
  },
  radius: ({ rho = 0 }) => round(rho),
  meeting: {
    begin(arrays) {
      const { p, anchor } = arrays as Own;
      anchor.set(p);
    },
    send(arrays, numbers) {
      const { p, anchor, pull } = arrays as Own;
      const lambda = round(numbers.lambda ?? 0);
      return p.map((value, i) => {
        const pulled = round((pull[i] as number) - round(lambda * round(value - (anchor[i] as number))));
        pull[i] = pulled;
        return value - round(pulled / lambda);
      });
    },
  },
};
