"""Make claims about language-model inference refutable, localisable and trustworthy."""
