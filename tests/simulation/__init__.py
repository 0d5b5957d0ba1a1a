"""The whole of delivery in one thread and one seed: real core, real server half, everything else modelled."""
