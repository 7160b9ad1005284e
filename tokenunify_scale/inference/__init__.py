"""Networks over volumes of any size: tiles, blending, views, tasks of ranks, and going on."""
