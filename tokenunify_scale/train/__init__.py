"""The engine room: DeepSpeed behind one door, the training loop, run folders."""
