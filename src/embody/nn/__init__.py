"""Building blocks shared by the tokenizer, the dynamics and the agent."""
