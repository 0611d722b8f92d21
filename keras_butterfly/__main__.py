"""`python -m keras_butterfly` is the command line."""

from keras_butterfly_cli import main

if __name__ == "__main__":
    main()
