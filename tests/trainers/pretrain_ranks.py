"""`hf-ssl pretrain` in each of several processes."""

import sys

from hf_ssl.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["pretrain", *sys.argv[1:]]))
