"""Collections of images: folders, archives, tables, data sets, and the labels beside them."""
