// Prompts by topic for load and for text-equality tests. Short, ordinary, written for this project.
export const topics = {
  code: [
    "def parse_args(argv):\n    parser = argparse.ArgumentParser()\n    parser.add_argument('--verbose', action='store_true')\n    args = parser.parse_args(argv)\n    return args\n\nclass Stack:\n    def __init__(self):\n        self.items = []\n\n    def push(self, item):\n",
    "for (let i = 0; i < rows.length; i++) {\n  const row = rows[i];\n  if (row.id === undefined) continue;\n  result.set(row.id, { ...row, index: i });\n}\nexport async function fetchJson(url) {\n  const response = await fetch(url);\n",
    "import numpy as np\n\ndef softmax(x):\n    e = np.exp(x - x.max(axis=-1, keepdims=True))\n    return e / e.sum(axis=-1, keepdims=True)\n\ndef cross_entropy(logits, labels):\n",
    "SELECT customers.name, COUNT(orders.id) AS total FROM customers LEFT JOIN orders ON orders.customer_id = customers.id WHERE orders.created_at > '2024-01-01' GROUP BY customers.name HAVING",
    "fn main() {\n    let mut map: HashMap<String, Vec<u32>> = HashMap::new();\n    for line in stdin.lock().lines() {\n        let line = line.unwrap();\n        let mut parts = line.split(',');\n",
    "#include <stdio.h>\n#include <stdlib.h>\n\nint compare(const void *a, const void *b) {\n    return *(const int *)a - *(const int *)b;\n}\n\nint main(int argc, char **argv) {\n",
  ],
  legal: [
    "The tenant shall pay the monthly rent on or before the first day of each calendar month. Should the tenant fail to pay within five days of the due date, the landlord may, without prejudice to any other remedy available under this agreement,",
    "This Agreement shall be governed by and construed in accordance with the laws of the State, without regard to its conflict of law provisions. Any dispute arising out of or in connection with this Agreement shall be finally settled by",
    "The receiving party undertakes to keep all confidential information strictly confidential and not to disclose it to any third party without the prior written consent of the disclosing party, except where disclosure is required by",
    "In no event shall the liability of the supplier under this contract exceed the total fees paid by the customer during the twelve months preceding the claim, and neither party shall be liable for any indirect or consequential",
    "WHEREAS the parties wish to set forth the terms and conditions of their cooperation; NOW, THEREFORE, in consideration of the mutual covenants contained herein, the parties agree as follows: 1. Definitions.",
    "The plaintiff alleges that the defendant breached its duty of care by failing to maintain the premises in a reasonably safe condition, and that as a direct and proximate result of such negligence the plaintiff suffered",
  ],
  story: [
    "Once upon a time, in a small village at the edge of the forest, there lived a girl who loved to listen to the birds. Every morning she walked to the river and",
    "The old lighthouse keeper climbed the stairs slowly that night. The storm had not yet reached the island, but he could smell it in the wind, and",
    "Grandmother's kitchen always smelled of cinnamon and apples. When the children came home from school, she would tell them about the winter when",
    "The dragon was very small, no larger than a cat, and nobody in the town believed that it could breathe fire until the evening when",
    "She opened the letter with trembling hands. It was from her brother, who had left for the sea eleven years ago, and it said",
    "Tom and his dog Biscuit set out early to find the treasure that the map had promised. Behind the second hill they met",
  ],
  medicine: [
    "The patient presented with a three-day history of fever, productive cough and pleuritic chest pain. On examination the respiratory rate was raised and auscultation revealed",
    "Hypertension is a major risk factor for stroke, myocardial infarction and chronic kidney disease. First-line treatment usually includes",
    "Type 2 diabetes mellitus is characterised by insulin resistance and progressive beta-cell dysfunction. Blood glucose should be monitored and",
    "Symptoms of dehydration include thirst, dark urine, dizziness and dry skin. Mild cases can be treated at home with oral rehydration, while severe",
    "The vaccine induces an immune response by presenting an antigen to lymphocytes, which then produce antibodies against the virus. Side effects may include",
    "After the operation the wound should be kept clean and dry. The doctor will remove the sutures after ten days unless signs of infection such as",
  ],
} as const;

export type Topic = keyof typeof topics;

/**
 * The way in which the twenty prompts are asked where texts are compared; test/golden/control.int.test.ts shows that a wrong
 * expert changes them.
 */
export const asked = {
  tokens: 20,
  /** Temperature of the sampled half; the other is greedy. */
  temperature: 1,
  seed: (prompt: number): number => 1000 + prompt,
} as const;

/** Twenty prompts of all kinds: the ones whose text must not depend on where experts live. */
export const twentyPrompts: readonly string[] = [
  "What is the capital of France?",
  "Explain in one sentence why the sky is blue.",
  "Write a short poem about the sea.",
  "List three fruits that are red.",
  "How do I boil an egg?",
  "What is the largest planet in the solar system?",
  "Give me a tip for learning a new language.",
  "Write a Python function that adds two numbers.",
  "Who wrote Romeo and Juliet?",
  "Describe a rainy day in the city.",
  "What should I pack for a trip to the mountains?",
  "Why do cats purr?",
  "Name two differences between a frog and a toad.",
  "What is a contract?",
  "How does a bicycle stay upright?",
  "Tell me a fun fact about honey.",
  "What causes the seasons on Earth?",
  "Suggest a name for a bakery.",
  "How many days are there in a leap year?",
  "Explain what a database index is for.",
];
