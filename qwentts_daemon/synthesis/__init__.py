"""From text to PCM: replies and the voices that can speak them."""
