"""What the demo says, in Chinese and English: the page's labels, messages with numbers in them, and errors."""
