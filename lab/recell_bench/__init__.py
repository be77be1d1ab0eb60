"""recell-bench: recell beside what others would use, on the same private servers, in one go."""
