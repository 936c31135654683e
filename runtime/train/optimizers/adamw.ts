// AdamW, with decoupled weight decay.
import { belowOne, type Optimizer, weightDecay } from "./optimizer.ts";
import { add, div, mul, sqrt, sub } from "./wasm.ts";

const numbers = ["clip", "beta1", "rest1", "beta2", "rest2", "correct1", "correct2", "epsilon", "decay", "rate"] as const;

const round = Math.fround;

export const adamw: Optimizer<(typeof numbers)[number]> = {
  settings: {
    beta1: belowOne("beta1", 0.9),
    beta2: belowOne("beta2", 0.95),
    epsilon: { option: "epsilon", fallback: 1e-8, allows: (value) => value > 0 && value < 1, must: "above 0 and below 1" },
    decay: weightDecay(0.1),
  },
  state: ["m", "v"],
  numbers,
  stepNumbers({ beta1 = 0, beta2 = 0, epsilon = 0, decay = 0 }, { step, rate, clip, decays }) {
    return {
      clip: round(clip),
      beta1: round(beta1),
      rest1: round(1 - beta1),
      beta2: round(beta2),
      rest2: round(1 - beta2),
      correct1: round(1 / (1 - beta1 ** step)),
      correct2: round(1 / (1 - beta2 ** step)),
      epsilon: round(epsilon),
      decay: decays ? round(decay) : 0,
      rate: round(rate),
    };
  },
  plain(arrays, from, to, n) {
    const { p, m, v, g } = arrays as Readonly<Record<"p" | "m" | "v" | "g", Float32Array>>;
    for (let i = from; i < to; i++) {
      const gradient = round(n.clip * (g[i] as number));
      const first = round(round(n.beta1 * (m[i] as number)) + round(n.rest1 * gradient));
      const second = round(round(n.beta2 * (v[i] as number)) + round(round(n.rest2 * gradient) * gradient));
      const size = round(round(Math.sqrt(round(second * n.correct2))) + n.epsilon);
      const move = round(round(round(first * n.correct1) / size) + round(n.decay * (p[i] as number)));
      m[i] = first;
      v[i] = second;
      p[i] = (p[i] as number) - round(n.rate * move);
    }
  },
  assignments({ number, array }) {
    const size = add(sqrt(mul(array("v"), number("correct2"))), number("epsilon"));
    const move = add(div(mul(array("m"), number("correct1")), size), mul(number("decay"), array("p")));
    return [
      ["g", mul(number("clip"), array("g"))],
      ["m", add(mul(number("beta1"), array("m")), mul(number("rest1"), array("g")))],
      ["v", add(mul(number("beta2"), array("v")), mul(mul(number("rest2"), array("g")), array("g")))],
      ["p", sub(array("p"), mul(number("rate"), move))],
    ];
  },
};
