"""MM-IMDB, image expert: VGG-16 features (4096) to 23 genres.

Paper: Xue and Marculescu, CVPR-W 2023, Table 1: micro/macro F1 39.99/25.26.
Command: python -m jdyn.train --config configs/mmimdb_image.py --config.data.root=DIR
Ours: not run on the real file.
"""

from configs import base, mmimdb_text


def get_config():
  """The image expert alone."""
  return base.run(base.data('mmimdb'), mmimdb_text.expert('image', 1024))
