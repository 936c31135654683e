// Stochastic gradient descent with momentum; plain descent where `beta1` is 0.
import { belowOne, type Optimizer, weightDecay } from "./optimizer.ts";
import { add, mul, sub } from "./wasm.ts";

const numbers = ["clip", "beta1", "decay", "rate"] as const;

const round = Math.fround;

export const sgd: Optimizer<(typeof numbers)[number]> = {
  settings: { beta1: belowOne("beta1", 0.9), decay: weightDecay(0) },
  state: ["m"],
  numbers,
  stepNumbers({ beta1 = 0, decay = 0 }, { rate, clip, decays }) {
    return { clip: round(clip), beta1: round(beta1), decay: decays ? round(decay) : 0, rate: round(rate) };
  },
  plain(arrays, from, to, n) {
    const { p, m, g } = arrays as Readonly<Record<"p" | "m" | "g", Float32Array>>;
    for (let i = from; i < to; i++) {
      const momentum = round(round(n.beta1 * (m[i] as number)) + round(n.clip * (g[i] as number)));
      m[i] = momentum;
      p[i] = (p[i] as number) - round(n.rate * round(momentum + round(n.decay * (p[i] as number))));
    }
  },
  assignments({ number, array }) {
    const move = add(array("m"), mul(number("decay"), array("p")));
    return [
      ["m", add(mul(number("beta1"), array("m")), mul(number("clip"), array("g")))],
      ["p", sub(array("p"), mul(number("rate"), move))],
    ];
  },
};
